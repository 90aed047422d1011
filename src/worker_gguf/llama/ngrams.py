"""Bans the tokens that would repeat an n-gram of the tokens so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

__all__ = ["Ngrams"]


class Ngrams:
    """The n-grams of one sequence, prompt and answer, as in `no_repeat_ngram_size` of Transformers."""

    def __init__(self, size: int) -> None:
        """`size` is the number of tokens of an n-gram, at least 1."""
        self._before: deque[int] = deque(maxlen=size - 1)
        self._next: dict[tuple[int, ...], set[int]] = {}
        self._size = size

    def note(self, tokens: Iterable[int]) -> None:
        """Add the next tokens."""
        for token in tokens:
            if len(self._before) == self._size - 1:
                self._next.setdefault(tuple(self._before), set()).add(token)
            self._before.append(token)

    def banned(self) -> set[int]:
        """Return the tokens that would repeat an n-gram if one came next."""
        return self._next.get(tuple(self._before), set())
