"""The requests of a file that have an answer already. Independent of files and of JSON."""

from __future__ import annotations

__all__ = ["Answered"]

_MODULUS = 1 << 64


class Answered:
    """A set of numbers of requests that needs no memory for each of them.

    Requests are sent in the order of their numbers and only some of them run at the same time. So nearly all requests
    up to the last answered one have an answer, and only the others are kept here.

    `digest` is the sum of the digests of the answered lines. It shows whether a file still has these lines, although
    the answers are in another order.
    """

    def __init__(self) -> None:
        self.last = 0
        self.digest = 0
        self._missing: set[int] = set()

    def add(self, number: int, digest: int) -> bool:
        """Note the answer of a request. Returns False, and changes nothing, if it has one already."""
        if number in self:
            return False
        if number > self.last:
            self._missing.update(range(self.last + 1, number))
            self.last = number
        else:
            self._missing.remove(number)
        self.digest = (self.digest + digest) % _MODULUS
        return True

    def __contains__(self, number: int) -> bool:
        return number <= self.last and number not in self._missing

    def __len__(self) -> int:
        return self.last - len(self._missing)
