"""Calls as a chat template wrote them, between what was found of them and what is still to be cut."""

from __future__ import annotations

from typing import NamedTuple

from worker_gguf.markup.call_format import CallFormat, JsonCall

__all__ = ["COUNTER", "ID_PATTERN", "SeenCalls", "ValueTexts"]

# Regular expressions of ids: of those that the worker gives to calls, and of numbers.
ID_PATTERN = JsonCall().id_pattern
COUNTER = "[0-9]+"


class ValueTexts(NamedTuple):
    """The texts around the values of a call with one or two arguments, or none."""

    before_key: str
    """From the name to the first argument's name."""
    key_end: str
    """From an argument's name to its value, a text."""
    between: str
    """From the value of an argument to the name of the next; if the name is repeated there, after that."""
    no_values: str | None
    """From the name to the end of the turn, if the call has no arguments."""
    repeats: str | None = None
    """From the value to its repeated name; None if it is not repeated."""
    is_json: bool = False
    is_nested: bool = False
    type_start: str = ""
    text_types: tuple[str, ...] = ()
    types: tuple[str, ...] = ()


class SeenCalls(NamedTuple):
    """A call in a text, from `start` to `end`. The marks of a call and of the section are outside.

    `inner` has the syntax and what is inside. `between` is what is written between two calls, None if an answer has
    only one, and `after` what is written after the last call. `values` are still to be cut, because the mark after the
    last value is not told apart from that of the call.
    """

    inner: CallFormat
    text: str
    start: int
    end: int
    between: str | None
    after: str
    values: ValueTexts | None = None
