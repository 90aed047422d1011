"""Tests of the parser of an answer, by what the request wants of the reasoning."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.scripted_parser import ScriptedParser
from tests.service.scripted import ScriptedMarkup
from worker_gguf.markup.known_formats import HERMES
from worker_gguf.markup.markup import Markup
from worker_gguf.markup.parts import Content, ContentParser, Part, Reasoning, ToolCall
from worker_gguf.markup.tool import Tool, ToolUse
from worker_gguf.protocol.reasoning import Form, ReasoningRequest
from worker_gguf.service.parsers import InBoth, Picking, parser_for, with_first_call, without_reasoning

TEXT = "~hm~ok"


def text_of(kind: type[Content | Reasoning], parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, kind) and not isinstance(part, ToolCall))


@pytest.mark.parametrize(
    ("form", "is_hidden", "content", "reasoning"),
    [
        ("apart", False, "ok", "hm"),
        ("apart", True, "ok", ""),
        ("content", False, TEXT, ""),
        ("both", False, TEXT, "hm"),
    ],
)
def test_where_the_reasoning_goes(form: Form, is_hidden: bool, content: str, reasoning: str) -> None:
    new = parser_for(ScriptedMarkup(), "", None, ReasoningRequest(form=form, is_hidden=is_hidden))
    for size in (1, 2, len(TEXT)):
        parser = new()
        pieces = [TEXT[i : i + size] for i in range(0, len(TEXT), size)]
        parts = [part for piece in pieces for part in parser.feed(piece)] + list(parser.end())
        assert (text_of(Content, parts), text_of(Reasoning, parts)) == (content, reasoning)


def test_the_parser_gets_the_tools() -> None:
    markup, tool = ScriptedMarkup(), Tool("f", {})
    parser_for(markup, "", ToolUse((tool,)), ReasoningRequest())()
    assert markup.tools == (tool,)


@pytest.mark.parametrize("is_parallel", [True, False])
def test_one_call_at_most(is_parallel: bool) -> None:
    use = ToolUse((Tool("f", {}),), is_parallel=is_parallel)
    parts = parser_for(ScriptedMarkup(), "", use, ReasoningRequest())().feed("!f({})!f({})ok")
    calls = {part.number for part in parts if isinstance(part, ToolCall)}
    assert calls == ({0, 1} if is_parallel else {0})
    assert text_of(Content, parts) == "ok"


def test_reasoning_that_is_left_out_or_doubled_is_still_known() -> None:
    for parser in (
        Picking(ScriptedParser(), without_reasoning),
        Picking(ScriptedParser(), with_first_call),
        InBoth(ScriptedParser(), ContentParser()),
    ):
        parser.feed("~h")
        assert parser.is_reasoning
        parser.feed("~")
        assert not parser.is_reasoning


@pytest.mark.parametrize("form", ["apart", "both", "content"])
@pytest.mark.parametrize("is_parallel", [True, False])
def test_half_a_call_is_known_in_every_form(form: Form, is_parallel: bool) -> None:
    markup = Markup.of_format(HERMES)
    use = ToolUse((Tool("f", {}),), is_parallel=is_parallel)
    parser = parser_for(markup, "", use, ReasoningRequest(form=form))()
    parser.feed('<tool_call>{"name": "f", "arguments": {"a": 1}')
    assert parser.has_half_call
    parser.feed("}</tool_call>")
    assert not parser.has_half_call
