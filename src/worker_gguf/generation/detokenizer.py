"""Turns token pieces into text: only whole characters, and nothing that may be the start of a stop text.

Pieces are bytes. Knows nothing of vocabularies.
"""

from __future__ import annotations

import codecs
from bisect import bisect_left, bisect_right

__all__ = ["Detokenizer"]


class Detokenizer:
    """The text of one sequence.

    Holds back a character or a stop text that is split over tokens until it is complete.
    """

    __slots__ = ("_decoder", "_firsts", "_held", "_keeps_stop", "_stops", "stop")

    def __init__(self, stops: tuple[str, ...] = (), *, keeps_stop: bool = False) -> None:
        """`stops` must not contain an empty string. With `keeps_stop`, the stop text is part of the text."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = _prefix_free(stops)
        self._firsts = {stop[0] for stop in self._stops}
        self._held = ""
        self._keeps_stop = keeps_stop
        self.stop: str | None = None

    def push(self, piece: bytes) -> str:
        """Add a token's bytes and return the text that is now final. Once `stop` is set, the text has ended."""
        text = self._decoder.decode(piece)
        if not self._stops:
            return text
        self._held += text
        end, self.stop = self._find_stop()
        if self.stop is not None and self._keeps_stop:
            end += len(self.stop)
        text, self._held = self._held[:end], "" if self.stop is not None else self._held[end:]
        return text

    def has_stopped(self) -> bool:
        return self.stop is not None

    def drop(self) -> None:
        """Drop what is held back, for a sequence that ends before it."""
        self._held = ""
        self._decoder.reset()

    def flush(self) -> str:
        """Return the text that is still held back at the end of a sequence. An incomplete character becomes U+FFFD."""
        if self.stop is not None:
            return ""
        text, self._held = self._held + self._decoder.decode(b"", final=True), ""
        return text

    def _find_stop(self) -> tuple[int, str | None]:
        """Return the index at which to cut the held text, and the stop text that begins there.

        The stop text is None if no stop text is complete. The index is then the start of a possible one, or the end of
        the held text.
        """
        # Runs for every token, so its time must not grow with the number of stop texts. The stop texts are sorted: the
        # one that `rest` begins with is the last that is not greater, and one that begins with `rest` is the first that
        # is not less.
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
    """Sort stop texts and drop each one that begins with another: the shorter one always ends the answer first."""
    kept: list[str] = []
    for stop in sorted(stops):
        if not kept or not stop.startswith(kept[-1]):
            kept.append(stop)
    return kept
