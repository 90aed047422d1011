"""Ends an answer at a line: where one is indented too little, or at the first end of one after some time.

Editors ask for this, so that a completion ends with the block of code in which it stands.
"""

from __future__ import annotations

from worker_gguf.engine.request import LineLimits

__all__ = ["LineWatch"]


class LineWatch:
    """Watches the lines of one answer. The first one is not watched, because it goes on in the line of the prompt."""

    __slots__ = ("_indent", "_limits", "is_over")

    def __init__(self, limits: LineLimits) -> None:
        self._limits = limits
        self._indent: int | None = None
        """The indentation of the line so far, or None after its first other character."""
        self.is_over = False

    def read(self, text: str, seconds: float) -> str:
        """Read the next text, which came `seconds` after the first token. Returns what of it is part of the answer."""
        if self._limits.min_indent:
            for at, letter in enumerate(text):
                if letter == "\n":
                    self._indent = 0
                elif self._indent is None:
                    continue
                elif letter in " \t":
                    self._indent += 1
                elif self._indent < self._limits.min_indent:
                    self.is_over = True
                    return text[:at]
                else:
                    self._indent = None
        if self._limits.max_s is not None and seconds > self._limits.max_s and "\n" in text:
            self.is_over = True
        return text
