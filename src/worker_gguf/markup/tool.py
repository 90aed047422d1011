"""The tools that a request offers to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

__all__ = ["Tool", "ToolUse"]


class Tool(Struct, frozen=True):
    """A function that the model may call. `parameters` is the JSON Schema of its arguments, {} if it has none.

    With `strict`, a part of the schema that cannot be guaranteed is an error.
    """

    name: str
    parameters: Mapping[str, Any]
    description: str | None = None
    strict: bool = False


class ToolUse(Struct, frozen=True):
    """The calls that an answer may have.

    `tools` are those that may be called. With `is_required`, the answer is a call. Without `is_parallel`, it has one
    call at most.
    """

    tools: tuple[Tool, ...]
    is_required: bool = False
    is_parallel: bool = True
