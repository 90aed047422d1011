"""Reads a text with the parser of a format, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.markup.replay import joined
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.parser import AnswerParser
from worker_gguf.markup.parts import Part
from worker_gguf.markup.tool import Tool

__all__ = ["HERMES_CALL", "TOOLS", "calls_of", "parser_of", "parts_of", "read"]

TOOLS = (
    Tool(
        "look_up",
        {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "n": {"type": "integer"},
                "flag": {"type": ["boolean", "string"]},
                "list": {"type": "array"},
            },
        },
    ),
    Tool("now", {"type": "object"}),
    Tool("files.read", {"type": "object"}),
)
HERMES_CALL = '<tool_call>\n{"name": "look_up", "arguments": {"text": "a"}}\n</tool_call>'


def parser_of(form: CallFormat, prompt_end: str = "", **options: Any) -> AnswerParser:
    return AnswerParser(form, prompt_end, TOOLS, **options)


def parts_of(parser: AnswerParser, pieces: Iterable[str]) -> list[Part]:
    return [*(part for piece in pieces for part in parser.feed(piece)), *parser.end()]


def read(form: CallFormat, text: str, prompt_end: str = "", **options: Any) -> tuple[str, str, list[tuple[str, Any]]]:
    """Return content, reasoning and the calls with their arguments."""
    result = joined(parts_of(parser_of(form, prompt_end, **options), [text]))
    assert result == joined(parts_of(parser_of(form, prompt_end, **options), text))
    calls = [(call.name, call.arguments()) for call in result.tool_calls]
    return result.content or "", result.reasoning_content or "", calls


def calls_of(form: CallFormat, text: str) -> list[tuple[str, Any]]:
    content, _, calls = read(form, text)
    assert content == ""
    return calls
