"""Splits the text of an answer into parts while it streams: content, reasoning, tool calls.

A parser gets the text of one answer piece by piece and returns the new parts. A dialect renders parts and never reads
the model's raw text. Parts that were returned are never changed: joined in order, the parts of one kind only grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

__all__ = ["Content", "ContentParser", "NewParser", "Part", "PartsParser", "Reasoning", "ToolCall"]


class Content(NamedTuple):
    """A piece of the answer."""

    text: str


class Reasoning(NamedTuple):
    """A piece of the model's reasoning before its answer."""

    text: str


class ToolCall(NamedTuple):
    """A piece of a tool call. `number` counts the calls of one answer from 0.

    The first piece of a call has its `id` and `name`; in later pieces, both are None. `arguments` is the next piece of
    a JSON text.
    """

    number: int
    id: str | None
    name: str | None
    arguments: str


Part = Content | Reasoning | ToolCall


class PartsParser(Protocol):
    """The parser of one answer, for one thread."""

    @property
    def is_reasoning(self) -> bool:
        """Whether the text that comes next is reasoning, as far as the text so far tells."""
        ...

    @property
    def has_half_call(self) -> bool:
        """Whether a call began that is not complete so far, or that was dropped."""
        ...

    def feed(self, text: str) -> Sequence[Part]:
        """Return the new parts after the next piece of text. An incomplete marker is held back."""
        ...

    def end(self) -> Sequence[Part]:
        """Return the parts of the text that is still held back, at the end of the answer."""
        ...


NewParser = Callable[[], PartsParser]


class ContentParser:
    """Returns all text as content."""

    is_reasoning = False
    has_half_call = False

    def feed(self, text: str) -> Sequence[Part]:
        return (Content(text),) if text else ()

    def end(self) -> Sequence[Part]:
        return ()
