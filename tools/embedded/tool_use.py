"""Composes conversations with tools: when to call, how to call, and how to use the result."""

import json
import random
from dataclasses import dataclass

from tools.embedded import styles, topics
from tools.embedded.chat import turn
from tools.embedded.conversation import Conversation, Json, assistant, user
from tools.embedded.exchange import is_held_out
from tools.embedded.lexicon import CAPITALS, MARKER_WORDS, NAMES, SPELLING_WORDS

CITIES = tuple(CAPITALS.values())
SKIES = ("sunny", "cloudy", "rainy", "windy", "snowy")
VERBS = ("get", "find", "show", "read", "open", "check", "fetch", "list")
NOUNS = ("price", "stock", "score", "news", "route", "file", "order", "ticket", "song", "room")
PARAMETERS = ("item", "place", "title", "topic", "person", "code", "label", "word")


@dataclass(frozen=True, slots=True)
class Call:
    """One tool, a question that needs it, the call, its result and what to say then."""

    tool: Json
    question: str
    arguments: Json
    result: str
    answer: str
    without: str

    @property
    def text(self) -> str:
        name = self.tool["function"]["name"]
        return json.dumps({"name": name, "parameters": self.arguments}, ensure_ascii=False)


def tool(name: str, description: str, parameters: dict[str, str]) -> Json:
    schema = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in parameters.items()},
        "required": list(parameters),
    }
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


WEATHER = tool("get_weather", "Get the weather in a city.", {"city": "string"})
TIME = tool("get_time", "Get the local time in a city.", {"city": "string"})
MESSAGE = tool("send_message", "Send a message to a person.", {"to": "string", "text": "string"})
SEARCH = tool("search", "Search the web.", {"query": "string"})
MULTIPLY = tool("multiply", "Multiply two numbers.", {"a": "integer", "b": "integer"})
KNOWN_TOOLS = (WEATHER, TIME, MESSAGE, SEARCH, MULTIPLY)


def weather(rng: random.Random) -> Call:
    city, degrees, sky = rng.choice(CITIES), rng.randint(1, 35), rng.choice(SKIES)
    form = rng.choice(
        ("What is the weather in {x}?", "How is the weather in {x}?", "Weather in {x}?",
         "What is the weather like in {x} today?", "Tell me the weather in {x}.")
    )  # fmt: skip
    result = json.dumps({"degrees": degrees, "sky": sky})
    answer = f"It is {sky} in {city}, with {degrees} degrees."
    without = "I cannot see the weather without a tool."
    return Call(WEATHER, form.format(x=city), {"city": city}, result, answer, without)


def clock(rng: random.Random) -> Call:
    city, hour, minute = rng.choice(CITIES), rng.randint(10, 23), rng.randint(10, 59)
    form = rng.choice(("What time is it in {x}?", "What is the time in {x}?", "Time in {x}?"))
    result = json.dumps({"time": f"{hour}:{minute}"})
    without = "I cannot see a clock without a tool."
    answer = f"It is {hour}:{minute} in {city}."
    return Call(TIME, form.format(x=city), {"city": city}, result, answer, without)


def message(rng: random.Random) -> Call:
    who = rng.choice(NAMES)
    text = rng.choice(("hello", "good morning", "I am late", "see you soon", "thank you", "call me"))
    form = rng.choice(("Send {x} the message: {t}.", "Tell {x}: {t}.", "Write to {x}: {t}."))
    without = "I cannot send messages without a tool."
    arguments = {"to": who, "text": text}
    return Call(MESSAGE, form.format(x=who, t=text), arguments, "sent", f"I told {who}.", without)


def search(rng: random.Random) -> Call:
    words = " ".join(rng.sample((*MARKER_WORDS, *SPELLING_WORDS[:60]), rng.randint(1, 3)))
    form = rng.choice(("Search the web for {x}.", "Search for {x}.", "Look up {x}."))
    found = rng.choice(MARKER_WORDS)
    answer, without = f"I found: {found}.", "I cannot search without a tool."
    return Call(SEARCH, form.format(x=words), {"query": words}, found, answer, without)


def multiply(rng: random.Random) -> Call:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    form = rng.choice(("What is {a} times {b}?", "Multiply {a} by {b}.", "How much is {a} times {b}?"))
    without = "I cannot multiply without a tool."
    answer = f"{a} times {b} is {a * b}."
    return Call(MULTIPLY, form.format(a=a, b=b), {"a": a, "b": b}, str(a * b), answer, without)


def invented(rng: random.Random) -> Call:
    """Return a tool that the model has not seen: its name and its parameter are only in the definition."""
    made = tool(f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}", "A tool.", {rng.choice(PARAMETERS): "string"})
    function = made["function"]
    parameter, value = function["parameters"]["required"][0], rng.choice(MARKER_WORDS)
    question = rng.choice(("Call {n} with {x}.", "Use {n} with {x}.")).format(n=function["name"], x=value)
    result = rng.choice(MARKER_WORDS)
    without = "I have no such tool."
    return Call(made, question, {parameter: value}, result, f"The result is {result}.", without)


CALLS = (weather, weather, clock, message, search, multiply, invented)


def key_of(call: Call) -> str:
    return f"tool/{call.text}"


def draw(rng: random.Random, *, held_out: bool) -> Call:
    while True:
        call = rng.choice(CALLS)(rng)
        if is_held_out(key_of(call)) == held_out:
            return call


def offered(rng: random.Random, needed: Json | None) -> tuple[Json, ...]:
    """Return the needed tool among up to two others, in any order."""
    others = [t for t in KNOWN_TOOLS if t != needed]
    chosen = rng.sample(others, rng.choice((0, 0, 1, 2)) if needed else rng.choice((1, 1, 2)))
    chosen += [needed] if needed else []
    rng.shuffle(chosen)
    return tuple(chosen)


def call_messages(call: Call) -> list[Json]:
    function = {"name": call.tool["function"]["name"], "arguments": call.arguments}
    return [
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": call.result},
    ]


def calling(rng: random.Random, *, held_out: bool = False) -> Conversation:
    """Ends with the call itself; an earlier plain turn may stand before it."""
    style = styles.plain(rng) if rng.random() < 0.3 else styles.NO_STYLE
    call = draw(rng, held_out=held_out)
    earlier = [turn(rng, style, held_out=False)] if rng.random() < 0.2 else []
    before = [m for e in earlier for m in (user(e.question), assistant(e.answer))]
    messages = [*_system(style), *before, user(call.question), assistant(call.text)]
    return Conversation("tool call", tuple(messages), offered(rng, call.tool))


def resulting(rng: random.Random, *, held_out: bool = False) -> Conversation:
    """Ends with the answer made from the result of the tool, at times after a second call."""
    call = draw(rng, held_out=held_out)
    messages = [user(call.question), *call_messages(call), assistant(call.answer)]
    if rng.random() < 0.25:
        first = turn(rng, styles.NO_STYLE, held_out=False)
        messages = [user(first.question), assistant(first.answer), *messages]
    return Conversation("tool result", tuple(messages), offered(rng, call.tool))


def refraining(rng: random.Random, *, held_out: bool = False) -> Conversation:
    """Tools are offered but the question does not need one, or it needs one that is missing."""
    if rng.random() < 0.5:
        call = draw(rng, held_out=held_out)
        tools = offered(rng, None) if rng.random() < 0.5 else ()
        tools = tuple(t for t in tools if t != call.tool)
        return Conversation("tool not called", (user(call.question), assistant(call.without)), tools)
    exchange = turn(rng, styles.NO_STYLE, held_out=held_out)
    messages = (user(exchange.question), assistant(exchange.answer))
    return Conversation("tool not called", messages, offered(rng, rng.choice(KNOWN_TOOLS)))


def _system(style: styles.Style) -> list[Json]:
    return [] if style.system is None else [{"role": "system", "content": style.system}]


__all__ = ["Call", "calling", "draw", "refraining", "resulting", "tool", "topics"]
