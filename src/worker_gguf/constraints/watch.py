"""Finds texts in a stream of bytes."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Watch"]


class Watch:
    """Looks for the first of several texts in the bytes of an answer, piece by piece."""

    def __init__(self, texts: Iterable[str], *, only_at_start: bool = False, ignores_case: bool = False) -> None:
        """With `only_at_start`, only whitespace may come before a text. `ignores_case` of ASCII letters."""
        self._ignores_case = ignores_case
        self._texts = tuple(self._folded(text.encode()) for text in texts if text)
        self._most = max(map(len, self._texts), default=1) - 1
        self._only_at_start = only_at_start
        self._tail = b""

    def feed(self, piece: bytes) -> bytes | None:
        """Add the next bytes. Returns what comes after the first text that is now complete, or None."""
        rest = self.peek(piece)
        data = self._tail + self._folded(piece)
        if self._only_at_start:
            self._tail = data.lstrip()[: self._most + 1]
        else:
            self._tail = data[len(data) - min(len(data), self._most) :]
        return rest

    def peek(self, piece: bytes) -> bytes | None:
        """Return what `feed` would return, and change nothing."""
        data = self._tail + self._folded(piece)
        if self._only_at_start:
            data = data.lstrip()
            found = next((text for text in self._texts if data.startswith(text)), None)
            return None if found is None else data[len(found) :]
        places = [(at + len(text), text) for text in self._texts if (at := data.find(text)) >= 0]
        return data[min(places)[0] :] if places else None

    def _folded(self, raw: bytes) -> bytes:
        return raw.lower() if self._ignores_case else raw
