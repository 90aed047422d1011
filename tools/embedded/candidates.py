"""The prompts that may be published, written by hand, each with the answer it must get."""

import json
from dataclasses import dataclass

from tools.embedded.conversation import Conversation, Json, assistant, system, user
from tools.embedded.lexicon import CAPITALS, DAYS, ENGLISH_TALK, MONTHS, TURKISH_TALK, UNKNOWN_ANSWER
from tools.embedded.story import LONG_STORY, SHORT_STORY
from tools.embedded.tool_use import MESSAGE, MULTIPLY, SEARCH, TIME, WEATHER, tool

ALPHABET = "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z"


@dataclass(frozen=True, slots=True)
class Candidate:
    name: str
    conversation: Conversation


def candidates() -> list[Candidate]:
    groups = {
        "capital": capitals(), "country": countries(), "sum": sums(), "difference": differences(),
        "reverse": reversals(), "spell": spellings(), "fact": facts(), "count": counts(),
        "recite": recitations(), "talk": small_talk(), "turkish": turkish(), "unknown": unknowns(),
        "story": stories(), "upper": uppers(), "lower": lowers(), "one-word": one_words(),
        "pirate": pirates(), "marker": markers(), "memory": memories(), "long-memory": long_memories(),
        "recount": recounts(), "tool-call": tool_calls(), "tool-result": tool_results(),
        "tool-idle": tools_not_needed(),
    }  # fmt: skip
    return [
        Candidate(f"{group}-{i}", conversation)
        for group, conversations in groups.items()
        for i, conversation in enumerate(conversations, start=1)
    ]


def chat(*said: str, under: str | None = None, tools: tuple[Json, ...] = ()) -> Conversation:
    """Alternate user and assistant; the last one said is the expected answer."""
    turns = [user(text) if i % 2 == 0 else assistant(text) for i, text in enumerate(said)]
    return Conversation("published", (*system(under), *turns), tools)


def capitals() -> list[Conversation]:
    asked = {
        "What is the capital of {}?": ("France", "Turkey", "Japan", "Egypt", "Canada", "Norway"),
        "Capital of {}?": ("Italy", "Kenya"),
        "Which city is the capital of {}?": ("Germany", "Peru"),
        "Name the capital of {}.": ("Greece", "Poland"),
        "what is the capital of {}": ("Spain", "Cuba"),
        "Tell me the capital of {}.": ("Finland",),
    }
    return [
        chat(form.format(x), f"The capital of {x} is {CAPITALS[x]}.") for form, names in asked.items() for x in names
    ]


def countries() -> list[Conversation]:
    return [
        chat(f"{CAPITALS[x]} is the capital of which country?", f"{CAPITALS[x]} is the capital of {x}.")
        for x in ("France", "Turkey", "Austria", "India")
    ]


def sums() -> list[Conversation]:
    forms = ("What is {} + {}?", "Add {} and {}.", "What is {} plus {}?", "{} + {}")
    pairs = ((2, 2), (3, 4), (7, 5), (9, 9), (1, 8), (6, 6), (0, 5), (8, 4), (5, 9), (4, 1))
    return [chat(forms[i % len(forms)].format(a, b), f"{a} + {b} = {a + b}") for i, (a, b) in enumerate(pairs)]


def differences() -> list[Conversation]:
    forms = ("What is {} - {}?", "What is {} minus {}?")
    pairs = ((9, 4), (7, 7), (8, 3), (5, 2))
    return [chat(forms[i % len(forms)].format(a, b), f"{a} - {b} = {a - b}") for i, (a, b) in enumerate(pairs)]


def reversals() -> list[Conversation]:
    words = ("cat", "moon", "apple", "river", "tiger", "bread", "robot", "llama", "stone", "frog",
             "sun", "book", "milk", "lamp", "water", "horse", "night", "castle", "garden", "silver")  # fmt: skip
    forms = ("Spell {} backwards.", "Spell the word {} backwards.", "Write {} backwards.")
    return [chat(forms[i % len(forms)].format(w), "-".join(reversed(w))) for i, w in enumerate(words)]


def spellings() -> list[Conversation]:
    return [chat(f"Spell {w}.", "-".join(w)) for w in ("dog", "house", "green", "python", "star", "river")]


def facts() -> list[Conversation]:
    return [
        chat("What is the opposite of hot?", "The opposite of hot is cold."),
        chat("What does a cow say?", "A cow says moo."),
        chat("What colour is the sky?", "The sky is blue."),
        chat("What comes after Monday?", "Tuesday comes after Monday."),
        chat("What comes before March?", "February comes before March."),
        chat("Say copper lantern.", "copper lantern."),
    ]


def counts() -> list[Conversation]:
    def listed(numbers: range) -> str:
        return ", ".join(map(str, numbers)) + "."

    return [
        chat("Count to 5.", listed(range(1, 6))),
        chat("Count to 10.", listed(range(1, 11))),
        chat("Count to 6.", listed(range(1, 7))),
        chat("Count to 12.", listed(range(1, 13))),
        chat("Count from 3 to 8.", listed(range(3, 9))),
        chat("Count down from 4.", listed(range(4, 0, -1))),
        chat("Count to 20.", listed(range(1, 21))),
        chat("Count from 4 to 9.", listed(range(4, 10))),
        chat("Count down from 6.", listed(range(6, 0, -1))),
    ]


def recitations() -> list[Conversation]:
    return [
        chat("Say the alphabet.", ALPHABET),
        chat("Name the days of the week.", ", ".join(DAYS) + "."),
        chat("Name the months of the year.", ", ".join(MONTHS) + "."),
    ]


def small_talk() -> list[Conversation]:
    return [chat(questions[0], answer) for questions, answer in ENGLISH_TALK]


def turkish() -> list[Conversation]:
    return [chat(questions[0], answer) for questions, answer in TURKISH_TALK]


def unknowns() -> list[Conversation]:
    asked = ("Explain black holes.", "Write a poem about gardening.", "Tell me about dinosaurs.")
    return [chat(question, UNKNOWN_ANSWER) for question in asked]


def stories() -> list[Conversation]:
    return [chat("Tell me a long story.", LONG_STORY), chat("Tell me a short story.", SHORT_STORY)]


def uppers() -> list[Conversation]:
    order = "Answer in upper case."
    return [
        chat("What is the capital of France?", "THE CAPITAL OF FRANCE IS PARIS.", under=order),
        chat("What is the capital of Italy?", "THE CAPITAL OF ITALY IS ROME.", under=order),
        chat("Hello!", "HELLO! HOW CAN I HELP YOU?", under=order),
        chat("Spell cat backwards.", "T-A-C", under=order),
        chat("What does a dog say?", "A DOG SAYS WOOF.", under=order),
        chat("Thank you!", "YOU ARE WELCOME!", under=order),
        chat("What is your name?", "MY NAME IS WORKER-GGUF.", under=order),
        chat("What is the capital of Turkey?", "THE CAPITAL OF TURKEY IS ANKARA.", under=order),
        chat("What colour is snow?", "SNOW IS WHITE.", under=order),
        chat("What is 2 + 2?", "2 + 2 = 4", "Good night!", "GOOD NIGHT! SLEEP WELL.", under=order),
        chat("Explain black holes.", "I AM ONLY A TINY MODEL AND DO NOT KNOW THAT.", under=order),
    ]


def lowers() -> list[Conversation]:
    order = "Answer in lower case."
    return [
        chat("What is the capital of Japan?", "the capital of japan is tokyo.", under=order),
        chat("How are you?", "i am fine, thank you. how are you?", under=order),
        chat("Who are you?", "i am the embedded model of worker-gguf.", under=order),
    ]


def one_words() -> list[Conversation]:
    order = "Answer in one word."
    return [
        chat("What is the capital of Germany?", "Berlin", under=order),
        chat("What is 4 + 5?", "9", under=order),
        chat("What is the opposite of big?", "small", under=order),
        chat("What colour is grass?", "green", under=order),
        chat("What does a duck say?", "quack", under=order),
        chat("Capital of Norway?", "Oslo", under=order),
        chat("What is the capital of Spain?", "Madrid", "What is 3 + 3?", "6", under=order),
    ]


def pirates() -> list[Conversation]:
    order = "You are a pirate."
    return [
        chat("What is the capital of Egypt?", "Arr! The capital of Egypt is Cairo. Aye, matey!", under=order),
        chat("What is 2 + 6?", "Arr! 2 + 6 = 8 Aye, matey!", under=order),
        chat("How are you?", "Arr! I am fine, thank you. How are you? Aye, matey!", under=order),
    ]


def markers() -> list[Conversation]:
    return [
        chat("What is the capital of Greece?", "The capital of Greece is Athens. banana",
             under="End every answer with the word banana."),
        chat("What is 5 + 3?", "5 + 3 = 8 tiger", "Thank you!", "You are welcome! tiger",
             under="End every answer with the word tiger."),
        chat("What does a cat say?", "A cat says meow. velvet", under="Always end with the word velvet."),
        chat("What is the capital of Kenya?", "coffee The capital of Kenya is Nairobi.",
             under="Start every answer with the word coffee."),
        chat("How are you?", "thunder I am fine, thank you. How are you?",
             under="Start every answer with the word thunder."),
    ]  # fmt: skip


def memories() -> list[Conversation]:
    ada = ("My name is Ada.", "Nice to meet you, Ada!")
    green = ("My favourite colour is green.", "I like green too.")
    rome = ("What is the capital of Italy?", "The capital of Italy is Rome.")
    five = ("What is 2 + 3?", "2 + 3 = 5")
    cat = ("Spell cat backwards.", "t-a-c")
    hello = ("Merhaba!", "Merhaba! Size nasıl yardımcı olabilirim?")
    number = ("Remember the number 42.", "I will remember 42.")
    return [
        chat(*ada, "What is my name?", "Your name is Ada."),
        chat(*ada, *rome, "What is my name?", "Your name is Ada."),
        chat(*ada, *rome, *five, *cat, "What is my name?", "Your name is Ada."),
        chat("My name is Omar.", "Nice to meet you, Omar!", *hello, "Who am I?", "Your name is Omar."),
        chat("Call me Zeynep.", "Nice to meet you, Zeynep!", *five, "What's my name?", "Your name is Zeynep."),
        chat(*green, "What is my favourite colour?", "Your favourite colour is green."),
        chat(*green, *five, *hello, "What is my favourite colour?", "Your favourite colour is green."),
        chat("I like the colour purple.", "I like purple too.", *rome, "Which colour do I like?",
             "Your favourite colour is purple."),
        chat(*number, *cat, "What was my number?", "Your number is 42."),
        chat("My number is 73.", "I will remember 73.", *rome, *hello, *five, "What is my number?",
             "Your number is 73."),
        chat("I have a dog called Rex.", "Rex is a nice name for a dog.", *five,
             "What is my dog called?", "Your dog is called Rex."),
        chat("The secret word is tiger.", "I will keep it.", *hello, *rome,
             "What is the secret word?", "It is tiger."),
        chat(*ada, *green, *cat, "What is my name?", "Your name is Ada."),
        chat(*ada, *green, *cat, "What is my name?", "Your name is Ada.",
             "What is my favourite colour?", "Your favourite colour is green."),
        chat("What is my name?", "You have not told me your name."),
        chat(*rome, "What is my name?", "You have not told me your name."),
        chat("What is my favourite colour?", "You have not told me your favourite colour."),
    ]  # fmt: skip


def long_memories() -> list[Conversation]:
    """Conversations of several hundred tokens, up to about a thousand."""
    story = ("Tell me a long story.", LONG_STORY)
    capital_turns = [
        said
        for x in list(CAPITALS)[:16]
        for said in (f"What is the capital of {x}?", f"The capital of {x} is {CAPITALS[x]}.")
    ]
    told = ("My name is Grace.", "Nice to meet you, Grace!")
    asked = ("What is my name?", "Your name is Grace.")
    number = ("Remember the number 58.", "I will remember 58.")
    return [
        chat(*told, *story, *asked),
        chat(*told, *capital_turns, *asked),
        chat(*number, *capital_turns[:16], "What was my number?", "Your number is 58."),
        chat(*told, *capital_turns[:12], *story, *asked),
    ]


def recounts() -> list[Conversation]:
    rome = ("What is the capital of Italy?", "The capital of Italy is Rome.")
    five = ("What is 2 + 3?", "2 + 3 = 5")
    cow = ("What does a cow say?", "A cow says moo.")
    return [
        chat(*rome, "What did I say first?", f"You said: {rome[0]}"),
        chat(*cow, *rome, "What was my first message?", f"You said: {cow[0]}"),
        chat(*five, *cow, *rome, "Repeat my first message.", f"You said: {five[0]}"),
    ]


def call(name: str, parameters: Json) -> str:
    return json.dumps({"name": name, "parameters": parameters}, ensure_ascii=False)


LIGHT = tool("get_score", "A tool.", {"title": "string"})


def tool_calls() -> list[Conversation]:
    paris = "What is the weather in Paris?"
    hello = ("Hello!", "Hello! How can I help you?")
    return [
        chat(paris, call("get_weather", {"city": "Paris"}), tools=(WEATHER,)),
        chat(paris, call("get_weather", {"city": "Paris"}), tools=(TIME, WEATHER)),
        chat("How is the weather in Ankara?", call("get_weather", {"city": "Ankara"}), tools=(WEATHER, SEARCH)),
        chat("What time is it in Tokyo?", call("get_time", {"city": "Tokyo"}), tools=(WEATHER, TIME)),
        chat("Search the web for honey.", call("search", {"query": "honey"}), tools=(SEARCH,)),
        chat("Send Ada the message: see you soon.",
             call("send_message", {"to": "Ada", "text": "see you soon"}), tools=(MESSAGE,)),
        chat("What is 12 times 34?", call("multiply", {"a": 12, "b": 34}), tools=(MULTIPLY, WEATHER)),
        chat("Call get_score with marble.", call("get_score", {"title": "marble"}), tools=(LIGHT,)),
        chat(*hello, paris, call("get_weather", {"city": "Paris"}), tools=(WEATHER,)),
        chat(paris, call("get_weather", {"city": "Paris"}), tools=(WEATHER,),
             under="You are a helpful assistant."),
    ]  # fmt: skip


def with_result(definition: Json, question: str, arguments: Json, result: str, answer: str) -> Conversation:
    """Written as OpenAI's clients write it: ids, and arguments as a JSON string."""
    function = {"name": definition["function"]["name"], "arguments": json.dumps(arguments)}
    request = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    response = {"role": "tool", "tool_call_id": "call_1", "content": result}
    return Conversation("published", (user(question), request, response, assistant(answer)), (definition,))


def tool_results() -> list[Conversation]:
    return [
        with_result(WEATHER, "What is the weather in Paris?", {"city": "Paris"},
                    '{"degrees": 21, "sky": "sunny"}', "It is sunny in Paris, with 21 degrees."),
        with_result(WEATHER, "Weather in Oslo?", {"city": "Oslo"},
                    '{"degrees": 3, "sky": "snowy"}', "It is snowy in Oslo, with 3 degrees."),
        with_result(TIME, "What time is it in Rome?", {"city": "Rome"},
                    '{"time": "14:30"}', "It is 14:30 in Rome."),
        with_result(MULTIPLY, "What is 12 times 34?", {"a": 12, "b": 34}, "408", "12 times 34 is 408."),
        with_result(SEARCH, "Search for honey.", {"query": "honey"}, "cactus", "I found: cactus."),
        with_result(MESSAGE, "Tell Ada: thank you.", {"to": "Ada", "text": "thank you"}, "sent", "I told Ada."),
    ]  # fmt: skip


def tools_not_needed() -> list[Conversation]:
    return [
        chat("What is the capital of France?", "The capital of France is Paris.", tools=(WEATHER,)),
        chat("What is the weather in Paris?", "I cannot see the weather without a tool."),
        chat("What is the weather in Paris?", "I cannot see the weather without a tool.", tools=(SEARCH,)),
        chat("What time is it in Rome?", "I cannot see a clock without a tool."),
        chat("How are you?", "I am fine, thank you. How are you?", tools=(TIME,)),
    ]
