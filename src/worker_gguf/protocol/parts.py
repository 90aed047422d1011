"""An answer's text, split into parts as it streams: content, reasoning, tool calls. Knows no dialect and no engine.

A parser is fed the text of one answer piece by piece and returns the parts that the piece brings out. A dialect renders
parts; it never looks at the model's raw text. Joined in order, the parts of one kind only ever grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

__all__ = ["Content", "ContentParser", "NewParser", "Part", "PartsParser", "Reasoning", "ToolCall"]

# Named tuples and not dataclasses: one is made for every piece of text that is streamed.


class Content(NamedTuple):
    """A piece of the answer itself."""

    text: str


class Reasoning(NamedTuple):
    """A piece of the model's thinking before its answer."""

    text: str


class ToolCall(NamedTuple):
    """A piece of a tool call. `number` counts the calls of one answer from 0.

    The first piece of a call carries its `id` and its `name`; the later ones carry None for both. `arguments` is the
    next piece of a JSON text.
    """

    number: int
    id: str | None
    name: str | None
    arguments: str


Part = Content | Reasoning | ToolCall


class PartsParser(Protocol):
    """Belongs to one answer and one thread."""

    def feed(self, text: str) -> Sequence[Part]:
        """Return the parts that the next piece of text brings out. A marker that has only begun is held back."""
        ...

    def end(self) -> Sequence[Part]:
        """Return the parts of the text that is still held back. The answer is over."""
        ...


NewParser = Callable[[], PartsParser]


class ContentParser:
    """Takes all text as content."""

    def feed(self, text: str) -> Sequence[Part]:
        return (Content(text),) if text else ()

    def end(self) -> Sequence[Part]:
        return ()
