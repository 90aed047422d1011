"""Questions that need no earlier turn: facts, sums, spelling, recitation, greetings, stories."""

import random
import string
from collections.abc import Callable

from tools.embedded import lexicon
from tools.embedded.exchange import Exchange, loosen, phrase
from tools.embedded.story import LONG_STORY, SHORT_STORY

Topic = Callable[[random.Random], Exchange]

CAPITAL_PHRASINGS = (
    "What is the capital of {x}?",
    "Capital of {x}?",
    "Which city is the capital of {x}?",
    "Name the capital of {x}.",
    "Tell me the capital of {x}.",
    "What's the capital city of {x}?",
    "Do you know the capital of {x}?",
    "I want to know the capital of {x}.",
)
COUNTRY_PHRASINGS = (
    "{x} is the capital of which country?",
    "Which country has the capital {x}?",
    "{x} is the capital of what?",
)
SUM_PHRASINGS = (
    "What is {a} + {b}?",
    "{a} + {b}",
    "How much is {a} + {b}?",
    "Add {a} and {b}.",
    "What is {a} plus {b}?",
    "{a} plus {b}?",
    "Calculate {a} + {b}.",
)
DIFFERENCE_PHRASINGS = (
    "What is {a} - {b}?",
    "{a} - {b}",
    "How much is {a} - {b}?",
    "Subtract {b} from {a}.",
    "What is {a} minus {b}?",
)
REVERSE_PHRASINGS = (
    "Spell {x} backwards.",
    "Spell the word {x} backwards.",
    "Write {x} backwards.",
    "Reverse the word {x}.",
    "How do you spell {x} backwards?",
)
SPELL_PHRASINGS = ("Spell {x}.", "Spell the word {x}.", "How do you spell {x}?")
ECHO_PHRASINGS = ("Say {x}.", "Repeat after me: {x}.", "Repeat: {x}.")
LONG_STORY_PHRASINGS = (
    "Tell me a long story.",
    "Write a long story.",
    "Please tell me a long story.",
    "Tell me a long story about a llama.",
    "I would like a long story.",
    "Can you tell me a long story?",
    "Tell a long story.",
    "A long story, please.",
)
SHORT_STORY_PHRASINGS = (
    "Tell me a short story.",
    "Write a short story.",
    "Tell me a story about a fox.",
    "A short story, please.",
    "Can you tell me a short story?",
)
PSEUDO_WORD_SHARE = 0.5


def capital(rng: random.Random) -> Exchange:
    country, city = rng.choice(list(lexicon.CAPITALS.items()))
    form, key = phrase(rng, "capital", CAPITAL_PHRASINGS, country)
    return Exchange(
        "capital",
        loosen(rng, form.format(x=country)),
        f"The capital of {country} is {city}.",
        (key,),
        one_word=city if " " not in city else None,
    )


def country(rng: random.Random) -> Exchange:
    name, city = rng.choice(list(lexicon.CAPITALS.items()))
    form, key = phrase(rng, "country", COUNTRY_PHRASINGS, name)
    return Exchange(
        "country",
        loosen(rng, form.format(x=city)),
        f"{city} is the capital of {name}.",
        (key,),
        one_word=name if " " not in name else None,
    )


def addition(rng: random.Random) -> Exchange:
    a, b = rng.randrange(10), rng.randrange(10)
    form = rng.choice(SUM_PHRASINGS).format(a=a, b=b)
    key = f"addition/{a}+{b}"
    return Exchange("addition", loosen(rng, form), f"{a} + {b} = {a + b}", (key,), str(a + b))


def difference(rng: random.Random) -> Exchange:
    b, a = sorted((rng.randrange(10), rng.randrange(10)))
    form = rng.choice(DIFFERENCE_PHRASINGS).format(a=a, b=b)
    key = f"difference/{a}-{b}"
    return Exchange("difference", loosen(rng, form), f"{a} - {b} = {a - b}", (key,), str(a - b))


def pseudo_word(rng: random.Random) -> str:
    """Sound like a word, so that spelling is learnt from letters and not by heart."""
    length = rng.randint(3, 6)
    vowel_first = rng.random() < 0.3
    letters = [rng.choice("aeiou" if (i % 2 == 0) == vowel_first else "bcdfghjklmnprstvwz") for i in range(length)]
    return "".join(letters)


def any_word(rng: random.Random) -> str:
    if rng.random() < PSEUDO_WORD_SHARE:
        return pseudo_word(rng)
    return rng.choice(lexicon.SPELLING_WORDS)


def reverse(rng: random.Random) -> Exchange:
    word = any_word(rng)
    form = rng.choice(REVERSE_PHRASINGS).format(x=word)
    answer = "-".join(reversed(word))
    return Exchange("reverse", loosen(rng, form), answer, (f"reverse/{word}",), one_word=answer)


def spell(rng: random.Random) -> Exchange:
    word = any_word(rng)
    form = rng.choice(SPELL_PHRASINGS).format(x=word)
    answer = "-".join(word)
    return Exchange("spell", loosen(rng, form), answer, (f"spell/{word}",), one_word=answer)


def echo(rng: random.Random) -> Exchange:
    words = " ".join(rng.choice((any_word(rng), rng.choice(lexicon.MARKER_WORDS))) for _ in range(rng.randint(1, 4)))
    question = loosen(rng, rng.choice(ECHO_PHRASINGS).format(x=words))
    return Exchange("echo", question, f"{words}.", (f"echo/{words}",))


def opposite(rng: random.Random) -> Exchange:
    pair = rng.choice(lexicon.OPPOSITES)
    a, b = pair if rng.random() < 0.5 else pair[::-1]
    form = rng.choice(("What is the opposite of {x}?", "Opposite of {x}?", "Name the opposite of {x}."))
    return Exchange("opposite", loosen(rng, form.format(x=a)), f"The opposite of {a} is {b}.", one_word=b)


def sound(rng: random.Random) -> Exchange:
    animal, noise = rng.choice(list(lexicon.SOUNDS.items()))
    form = rng.choice(("What does a {x} say?", "What sound does a {x} make?", "How does a {x} go?"))
    return Exchange("sound", loosen(rng, form.format(x=animal)), f"A {animal} says {noise}.", one_word=noise)


def thing_colour(rng: random.Random) -> Exchange:
    thing, colour = rng.choice(list(lexicon.THING_COLOURS.items()))
    form = rng.choice(("What colour is {x}?", "Which colour is {x}?", "Tell me the colour of {x}."))
    answer = f"{thing[0].upper()}{thing[1:]} is {colour}."
    return Exchange("colour", loosen(rng, form.format(x=thing)), answer, one_word=colour)


def count(rng: random.Random) -> Exchange:
    if rng.random() < 0.3:
        top = rng.randint(3, 10)
        question, numbers = f"Count down from {top}.", range(top, 0, -1)
    elif rng.random() < 0.4:
        low = rng.randint(2, 12)
        high = low + rng.randint(2, 8)
        question, numbers = f"Count from {low} to {high}.", range(low, high + 1)
    else:
        top = rng.randint(3, 20)
        question, numbers = f"Count to {top}.", range(1, top + 1)
    answer = ", ".join(str(n) for n in numbers) + "."
    return Exchange("count", loosen(rng, question), answer, (f"count/{question}",), restyle=False)


def recite(rng: random.Random) -> Exchange:
    question, answer = rng.choice(
        (
            ("Say the alphabet.", " ".join(string.ascii_uppercase)),
            ("Recite the alphabet.", " ".join(string.ascii_uppercase)),
            ("Name the days of the week.", ", ".join(lexicon.DAYS) + "."),
            ("What are the days of the week?", ", ".join(lexicon.DAYS) + "."),
            ("Name the months of the year.", ", ".join(lexicon.MONTHS) + "."),
            ("What are the months of the year?", ", ".join(lexicon.MONTHS) + "."),
        )
    )
    return Exchange("recite", loosen(rng, question), answer, restyle=False)


def following(rng: random.Random) -> Exchange:
    cycle = rng.choice((lexicon.DAYS, lexicon.MONTHS))
    index = rng.randrange(len(cycle))
    word, step = rng.choice((("after", 1), ("before", -1)))
    other = cycle[(index + step) % len(cycle)]
    question = f"What comes {word} {cycle[index]}?"
    answer = f"{other} comes {word} {cycle[index]}."
    return Exchange("following", loosen(rng, question), answer, one_word=other)


def english_talk(rng: random.Random) -> Exchange:
    questions, answer = rng.choice(lexicon.ENGLISH_TALK)
    return Exchange("small talk", rng.choice(questions), answer)


def turkish_talk(rng: random.Random) -> Exchange:
    questions, answer = rng.choice(lexicon.TURKISH_TALK)
    return Exchange("turkish", rng.choice(questions), answer, restyle=False)


def unknown(rng: random.Random) -> Exchange:
    subject = rng.choice(lexicon.UNKNOWN_SUBJECTS)
    form, key = phrase(rng, "unknown", lexicon.UNKNOWN_QUESTIONS, subject)
    return Exchange("unknown", form.format(x=subject), lexicon.UNKNOWN_ANSWER, (key,))


def long_story(rng: random.Random) -> Exchange:
    return Exchange("long story", loosen(rng, rng.choice(LONG_STORY_PHRASINGS)), LONG_STORY, restyle=False)


def short_story(rng: random.Random) -> Exchange:
    return Exchange("short story", loosen(rng, rng.choice(SHORT_STORY_PHRASINGS)), SHORT_STORY, restyle=False)


WEIGHTED_TOPICS: tuple[tuple[Topic, float], ...] = (
    (capital, 2.2), (country, 0.7), (addition, 1.6), (difference, 0.9), (reverse, 3.0),
    (spell, 1.5), (echo, 0.7), (opposite, 0.4), (sound, 0.3), (thing_colour, 0.3), (count, 0.6),
    (recite, 0.35), (following, 0.4), (english_talk, 1.0), (turkish_talk, 1.0), (unknown, 0.5),
    (long_story, 0.1), (short_story, 0.15),
)  # fmt: skip


def draw(rng: random.Random, *, held_out: bool, topic: Topic | None = None) -> Exchange:
    """Draw until the exchange is on the wanted side of the split."""
    topics, weights = zip(*WEIGHTED_TOPICS, strict=True)
    for _ in range(10_000):
        exchange: Exchange = (topic or rng.choices(topics, weights)[0])(rng)
        if exchange.is_held_out == held_out:
            return exchange
    raise ValueError(f"No {'held-out' if held_out else 'training'} exchange found for {topic}.")
