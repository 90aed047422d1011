"""One question with its one right answer, and the rule that keeps some of them out of training."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

HELD_OUT_PERCENT = 8


@dataclass(frozen=True, slots=True)
class Exchange:
    """`keys` name the combinations that make it up; one held-out key holds out the exchange."""

    topic: str
    question: str
    answer: str
    keys: tuple[str, ...] = ()
    one_word: str | None = None
    restyle: bool = True

    @property
    def is_held_out(self) -> bool:
        return any(is_held_out(key) for key in self.keys)


def is_held_out(key: str) -> bool:
    """Decide by hash, so that the split depends on no seed and no order of generation."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def loosen(rng: random.Random, question: str) -> str:
    """Type like people do: no capital, no question mark, a please, a hello."""
    roll = rng.random()
    if roll < 0.12:
        return question.lower()
    if roll < 0.22:
        return question.rstrip("?.")
    if roll < 0.28:
        return question.lower().rstrip("?.")
    if roll < 0.33:
        return f"{question} Please."
    if roll < 0.38:
        return f"Hi! {question}"
    if roll < 0.42:
        return f"Please tell me: {question}"
    return question


def phrase(rng: random.Random, topic: str, phrasings: Sequence[str], item: str) -> tuple[str, str]:
    """Pick a phrasing; the key names it together with the item it is asked about."""
    index = rng.randrange(len(phrasings))
    return phrasings[index], f"{topic}/{item}/phrasing {index}"
