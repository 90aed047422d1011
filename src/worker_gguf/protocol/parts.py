"""Splits the text of an answer into parts as it streams: content, reasoning, tool calls. Pure.

A parser receives the text of one answer piece by piece and returns the parts that the piece completes. A dialect
renders parts and never reads the model's raw text. Joined in order, the parts of one kind only grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

__all__ = ["Content", "ContentParser", "NewParser", "Part", "PartsParser", "Reasoning", "ToolCall"]

# Parts are named tuples because one is created for every piece of text that is streamed.


class Content(NamedTuple):
    """A piece of the answer itself."""

    text: str


class Reasoning(NamedTuple):
    """A piece of the model's reasoning before its answer."""

    text: str


class ToolCall(NamedTuple):
    """A piece of a tool call. `number` counts the calls of one answer from 0.

    The first piece of a call has its `id` and its `name`; in later pieces both are None. `arguments` is the next piece
    of a JSON text.
    """

    number: int
    id: str | None
    name: str | None
    arguments: str


Part = Content | Reasoning | ToolCall


class PartsParser(Protocol):
    """Parses the text of one answer, in one thread."""

    def feed(self, text: str) -> Sequence[Part]:
        """Return the parts that the next piece of text completes. Text that may be the start of a marker is held
        back.
        """
        ...

    def end(self) -> Sequence[Part]:
        """Return the parts of the text that is still held back, at the end of the answer."""
        ...


NewParser = Callable[[], PartsParser]


class ContentParser:
    """Returns all text as content."""

    def feed(self, text: str) -> Sequence[Part]:
        return (Content(text),) if text else ()

    def end(self) -> Sequence[Part]:
        return ()
