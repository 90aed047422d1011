"""Guesses the next tokens of a sequence from an earlier place in it that looks the same (prompt lookup).

A text that quotes its prompt, changes code or repeats itself contains what it says next. Knows nothing of steps.
Source of the idea: "Prompt Lookup Decoding", https://github.com/apoorvumang/prompt-lookup-decoding
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

__all__ = ["LONG_MATCH", "Chances", "Lookup", "Offer"]

# So many tokens must be equal before a place counts as the same.
_N = 3
LONG_MATCH = 8
"""From so many equal tokens on, a match is a quotation and no longer a coincidence."""
# Older tokens of a long context are not searched. The index takes some 150 bytes for each token.
_MOST_INDEXED = 32_768
_NEWEST = 0.08


class Chances:
    """How often the next guess was right: for short matches and for long ones. Means that follow the latest tokens."""

    __slots__ = ("long", "short")

    def __init__(self, short: float = 0.5, long: float = 0.9) -> None:
        self.short, self.long = short, long

    def note(self, n_matched: int, *, was_right: bool) -> None:
        if n_matched < LONG_MATCH:
            self.short += _NEWEST * (was_right - self.short)
        else:
            self.long += _NEWEST * (was_right - self.long)

    def of(self, n_matched: int) -> float:
        return self.short if n_matched < LONG_MATCH else self.long


class Offer(NamedTuple):
    """Tokens that may come next, the chance of each that it and all before it are right, and the steps that it saves.

    A token that a grammar forces saves none, because it would have been added without a row.
    """

    tokens: Sequence[int]
    chances: list[float]
    gains: list[float]

    def count(self, least: float) -> int:
        """Return how many of the tokens to take: those with this chance at least, up to the last one that is drawn."""
        n = sum(chance >= least for chance in self.chances)
        while n and not self.gains[n - 1]:
            n -= 1
        return n


class Lookup:
    """The index of one sequence, and the place in it that the sequence repeats now, if it repeats one.

    Every drawn token shows whether the guess would have been right. So the chances are known without a guess being
    computed, and guessing begins when it is worth it.
    """

    __slots__ = ("_at", "_chances", "_common", "_forced", "_index", "_n_matched", "_tokens")

    def __init__(self, tokens: list[int], forced: Set[int], common: Chances) -> None:
        """`tokens` is the list of the sequence, which grows, and `forced` the places in it of forced tokens.

        `common` has the chances of all sequences so far.
        """
        self._tokens = tokens
        self._forced = forced
        self._common = common
        self._chances = Chances(common.short, common.long)
        first = max(0, len(tokens) - _MOST_INDEXED)
        recent = tokens[first:]
        # The key of three tokens leads to the token after them.
        keys = zip(recent, recent[1:], recent[2:], strict=False)
        self._index = dict(zip(keys, range(first + _N, len(tokens)), strict=False))
        self._at: int | None = None
        self._n_matched = 0
        self._find()

    def note(self, n_new: int) -> None:
        """Learn from the last `n_new` tokens of the sequence."""
        tokens, index = self._tokens, self._index
        for end in range(len(tokens) - n_new, len(tokens)):
            if self._at is not None:
                was_right = tokens[self._at] == tokens[end]
                if end not in self._forced:
                    self._chances.note(self._n_matched, was_right=was_right)
                    self._common.note(self._n_matched, was_right=was_right)
                if was_right:
                    self._at += 1
                    self._n_matched += 1
                else:
                    self._at = None
            key = (tokens[end - 2], tokens[end - 1], tokens[end]) if end >= _N - 1 else None
            if key is not None:
                if self._at is None:
                    self._at, self._n_matched = index.get(key), _N
                index[key] = end + 1

    def offer(self, most: int) -> Offer | None:
        """Return `most` tokens that may come next, or None. A repetition is taken to go on."""
        if self._at is None:
            return None
        places = range(self._at, min(self._at + most, len(self._tokens)))
        chances: list[float] = []
        gains: list[float] = []
        chance = 1.0
        for i in range(most):
            # What was forced at the earlier place will be forced again.
            is_forced = places[i % len(places)] in self._forced
            if not is_forced:
                chance *= self._chances.of(self._n_matched + i)
            chances.append(chance)
            gains.append(0.0 if is_forced else chance)
        found = self._tokens[places.start : places.stop]
        if min(found) < 0:  # an image is part of no answer
            return None
        while len(found) < most:
            found += found[: most - len(found)]
        return Offer(found, chances, gains)

    def _find(self) -> None:
        if len(self._tokens) >= _N:
            self._at = self._index.get((self._tokens[-3], self._tokens[-2], self._tokens[-1]))
            self._n_matched = _N
