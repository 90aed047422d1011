"""Writes an answer in a call format, so that a test can show the format as the text that its model writes."""

from __future__ import annotations

from typing import Any

from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.written_calls import written_calls

__all__ = ["specimen"]

_CALLS: tuple[tuple[str, dict[str, Any]], ...] = (("f", {"a": "x", "b": 1}), ("g", {}))


def specimen(form: CallFormat) -> str:
    """Return the reasoning R, the content C, and the calls of f with two arguments and of g without any, each in the
    marks of the format. Of a format with one call an answer, that of f."""
    reasoning = f"{form.reasoning_start}R{form.reasoning_ends[0]}" if form.reasoning_ends else ""
    content = f"{form.content_start}C{form.content_end}{form.before_calls}"
    return f"{reasoning}{content}{written_calls(form, _CALLS if form.is_parallel else _CALLS[:1])}"
