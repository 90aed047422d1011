"""System prompts that change how an answer is written, and what they change it to."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tools.embedded.exchange import Exchange
from tools.embedded.lexicon import MARKER_WORDS

PLAIN_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "Be helpful.",
    "You are the assistant of a small shop.",
    "Answer the questions of the user.",
)
UPPER_SYSTEMS = (
    "Answer in upper case.",
    "Answer in upper case only.",
    "Always answer in upper case.",
    "Write everything in capital letters.",
    "You are a helpful assistant. Answer in upper case.",
)
LOWER_SYSTEMS = (
    "Answer in lower case.",
    "Answer in lower case only.",
    "Always answer in lower case.",
    "Write everything in small letters.",
    "You are a helpful assistant. Answer in lower case.",
)
ONE_WORD_SYSTEMS = (
    "Answer in one word.",
    "Answer with one word only.",
    "Always answer in one word.",
    "Use a single word.",
    "You are a helpful assistant. Answer in one word.",
)
PIRATE_SYSTEMS = (
    "You are a pirate.",
    "Talk like a pirate.",
    "Answer like a pirate.",
    "You are a pirate. Answer the questions.",
)
END_SYSTEMS = (
    "End every answer with the word {w}.",
    "End each answer with {w}.",
    "Always end with the word {w}.",
)
START_SYSTEMS = (
    "Start every answer with the word {w}.",
    "Start each answer with {w}.",
    "Always start with the word {w}.",
)


@dataclass(frozen=True, slots=True)
class Style:
    """`key` joins the keys of an exchange: a held-out pair of style and question is never seen."""

    name: str
    system: str | None
    rewrite: Callable[[Exchange], str]
    key: str = ""

    def accepts(self, exchange: Exchange) -> bool:
        if self.name in ("none", "plain"):
            return True
        return exchange.restyle and (self.name != "one word" or exchange.one_word is not None)

    def apply(self, exchange: Exchange) -> str:
        return self.rewrite(exchange)


def _answer(exchange: Exchange) -> str:
    return exchange.answer


def _one_word(exchange: Exchange) -> str:
    return exchange.one_word or exchange.answer


NO_STYLE = Style("none", None, _answer)


def plain(rng: random.Random) -> Style:
    return Style("plain", rng.choice(PLAIN_SYSTEMS), _answer)


def upper(rng: random.Random) -> Style:
    return Style("upper", rng.choice(UPPER_SYSTEMS), lambda e: e.answer.upper(), "upper")


def lower(rng: random.Random) -> Style:
    return Style("lower", rng.choice(LOWER_SYSTEMS), lambda e: e.answer.lower(), "lower")


def one_word(rng: random.Random) -> Style:
    return Style("one word", rng.choice(ONE_WORD_SYSTEMS), _one_word, "one word")


def pirate(rng: random.Random) -> Style:
    return Style("pirate", rng.choice(PIRATE_SYSTEMS), lambda e: f"Arr! {e.answer} Aye, matey!", "pirate")


def ending(rng: random.Random) -> Style:
    word = rng.choice(MARKER_WORDS)
    system = rng.choice(END_SYSTEMS).format(w=word)
    return Style("ending", system, lambda e: f"{e.answer} {word}", f"ending/{word}")


def starting(rng: random.Random) -> Style:
    word = rng.choice(MARKER_WORDS)
    system = rng.choice(START_SYSTEMS).format(w=word)
    return Style("starting", system, lambda e: f"{word} {e.answer}", f"starting/{word}")


STYLES = (upper, lower, one_word, pirate, ending, starting)


def draw(rng: random.Random) -> Style:
    roll = rng.random()
    if roll < 0.45:
        return NO_STYLE
    if roll < 0.58:
        return plain(rng)
    return rng.choice(STYLES)(rng)
