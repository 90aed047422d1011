"""From token pieces to text: whole characters, and nothing that may be the start of a stop text.

Knows nothing of vocabularies: pieces are bytes.
"""

from __future__ import annotations

import codecs

__all__ = ["Detokenizer"]


class Detokenizer:
    """One sequence's text. Characters split over tokens and stop texts split over tokens are held back until whole."""

    __slots__ = ("_decoder", "_held", "_longest", "_stops", "stop")

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.stop: str | None = None

    def push(self, piece: bytes) -> str:
        """The text that a token brings out for good. Once `stop` is set, the text is over."""
        text = self._decoder.decode(piece)
        if not self._stops:
            return text
        self._held += text
        found = self._find_stop()
        if found is not None:
            text, self._held = self._held[: found[0]], ""
            self.stop = found[1]
            return text
        keep = self._may_begin_stop()
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def has_stopped(self) -> bool:
        return self.stop is not None

    def flush(self) -> str:
        """What is still held back when the sequence ends without a stop text; a broken character becomes U+FFFD."""
        if self.stop is not None:
            return ""
        text, self._held = self._held + self._decoder.decode(b"", final=True), ""
        return text

    def _find_stop(self) -> tuple[int, str] | None:
        hits = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        return min(hits, key=lambda hit: hit[0], default=None)

    def _may_begin_stop(self) -> int:
        """Length of the longest end of the held text that some stop text begins with."""
        for n in range(min(self._longest - 1, len(self._held)), 0, -1):
            end = self._held[-n:]
            if any(stop.startswith(end) for stop in self._stops):
                return n
        return 0
