"""Turns token pieces into text: whole characters only, without anything that may begin a stop text.

Knows nothing of vocabularies: pieces are bytes.
"""

from __future__ import annotations

import codecs
from bisect import bisect_left, bisect_right

__all__ = ["Detokenizer"]


class Detokenizer:
    """One sequence's text. Characters split over tokens and stop texts split over tokens are held back until whole."""

    __slots__ = ("_decoder", "_firsts", "_held", "_stops", "stop")

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        """`stops` are not empty texts."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = _prefix_free(stops)
        self._firsts = {stop[0] for stop in self._stops}
        self._held = ""
        self.stop: str | None = None

    def push(self, piece: bytes) -> str:
        """The text that a token brings out for good. Once `stop` is set, the text is over."""
        text = self._decoder.decode(piece)
        if not self._stops:
            return text
        self._held += text
        end, self.stop = self._find_stop()
        text, self._held = self._held[:end], "" if self.stop is not None else self._held[end:]
        return text

    def has_stopped(self) -> bool:
        return self.stop is not None

    def flush(self) -> str:
        """Return the text that is still held back when the sequence ends without a stop text. A broken character
        becomes U+FFFD.
        """
        if self.stop is not None:
            return ""
        text, self._held = self._held + self._decoder.decode(b"", final=True), ""
        return text

    def _find_stop(self) -> tuple[int, str | None]:
        """Return where the held text is cut, and the stop text that begins there; None if it may only begin there.

        Runs for every token, so its time must not grow with the number of stop texts. In their sorted order, the one
        that a text begins with is the last that is not greater, and one that begins with the text is the first that is
        not less.
        """
        cut = len(self._held)
        for at, first in enumerate(self._held):
            if first not in self._firsts:
                continue
            rest = self._held[at:]
            before = bisect_right(self._stops, rest)
            if before and rest.startswith(self._stops[before - 1]):
                return at, self._stops[before - 1]
            after = bisect_left(self._stops, rest)
            if at < cut and after < len(self._stops) and self._stops[after].startswith(rest):
                cut = at
        return cut, None


def _prefix_free(stops: tuple[str, ...]) -> list[str]:
    """Sort stop texts, without those that begin with another one: that one always ends the answer first."""
    kept: list[str] = []
    for stop in sorted(stops):
        if not kept or not stop.startswith(kept[-1]):
            kept.append(stop)
    return kept
