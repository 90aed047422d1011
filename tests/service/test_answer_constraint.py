"""Tests of calls together with a constraint of the answer."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from tests.service.scripted import MARK, ScriptedMarkup
from worker_gguf.engine.request import Constraint
from worker_gguf.errors import UnsupportedParameter
from worker_gguf.markup.call_format import CallFormat, Channels
from worker_gguf.markup.tool import Tool, ToolUse
from worker_gguf.service.answer_constraint import answer_constraint
from worker_gguf.service.calls_or_json import has_bare_calls

AUTO = ToolUse((Tool("find", {}),))
REQUIRED = ToolUse((Tool("find", {}),), is_required=True)
SCHEMA = Constraint("json_schema", '{"type": "object"}')


WRAPPED = CallFormat(content_start="[SAY]", content_end="</say>")
CHANNELS = CallFormat(
    syntax="json",
    channels=Channels("<s>", "assistant", "<ch>", "<m>", ("<e>",), ("analysis",), ("final",), " to=", "commentary"),
)


def combined(use: ToolUse | None, text: Constraint | None, call_format: CallFormat | None = None) -> Constraint | None:
    return answer_constraint(
        ScriptedMarkup(call_format), use, text, lambda marker: MARK if marker.startswith("[") else None
    )


def test_either_alone_is_as_it_is() -> None:
    assert combined(None, None) is None
    assert combined(None, SCHEMA) is SCHEMA
    calls = ScriptedMarkup().call_constraint(AUTO, lambda marker: MARK)
    assert combined(AUTO, None) == replace(calls, param="tools")


def test_after_the_only_call_the_answer_ends() -> None:
    one = combined(replace(AUTO, is_parallel=False), None)
    assert one is not None
    assert one.is_last


def test_a_required_call_leaves_no_text_to_constrain() -> None:
    assert combined(REQUIRED, SCHEMA) == combined(REQUIRED, None)


def test_calls_that_are_allowed_and_a_schema_are_two_ways_to_answer() -> None:
    both = combined(AUTO, SCHEMA)
    assert both is not None
    assert (both.kind, both.triggers) == ("lark", ())
    first, second, *_, last = both.grammar.splitlines()
    assert first == "start: calls_of_answer | text_of_answer"
    assert second == "calls_of_answer: call"
    name, schema = last.split(": %json ")
    assert name == "text_of_answer"
    assert json.loads(schema)["type"] == "object"
    assert json.loads(schema)["x-guidance"]["lenient"] is False


def test_a_schema_that_may_be_loosened_stays_so() -> None:
    both = combined(AUTO, Constraint("json_schema", "true", is_lenient=True))
    assert both is not None
    assert json.loads(both.grammar.splitlines()[-1].split("%json ")[1])["x-guidance"]["lenient"] is True


@pytest.mark.parametrize(
    ("regex", "expression"),
    [("a|b", "/a|b/"), ("a/b", r"/a\/b/"), (r"a\/b", r"/a\/b/"), (r"\\/\n" + "\n", r"/\\\/\n\n/")],
)
def test_a_regular_expression_is_written_between_slashes(regex: str, expression: str) -> None:
    both = combined(AUTO, Constraint("regex", regex))
    assert both is not None
    assert both.grammar.splitlines()[-1] == f"text_of_answer: {expression}"


def test_what_a_model_writes_around_its_content_comes_around_the_text() -> None:
    alone = combined(None, Constraint("choice", '["a"]'), WRAPPED)
    assert alone == Constraint("lark", f'start: (<[{MARK}]>)? text_of_answer ("</say>")?\ntext_of_answer: "a"\n')
    both = combined(AUTO, Constraint("choice", '["a"]'), WRAPPED)
    assert both is not None
    assert both.grammar.startswith(f'start: calls_of_answer | (<[{MARK}]>)? text_of_answer ("</say>")?\n')
    in_channels = combined(None, Constraint("choice", '["a"]'), CHANNELS)
    assert in_channels is not None
    assert in_channels.grammar.startswith('start: ("<s>" "assistant")? "<ch>" "final" "<m>" text_of_answer\n')


def test_a_grammar_that_cannot_be_put_between_marks_is_refused() -> None:
    with pytest.raises(UnsupportedParameter, match="marks around its answer"):
        combined(None, Constraint("gbnf", 'root ::= "a"'), WRAPPED)


def test_choices_are_a_way_to_answer_too() -> None:
    both = combined(AUTO, Constraint("choice", '["a", "b\\"c"]'))
    assert both is not None
    assert both.grammar.endswith('text_of_answer: "a" | "b\\"c"\n')


@pytest.mark.parametrize(
    "text",
    [Constraint("gbnf", 'root ::= "a"'), Constraint("lark", 'start: "a"'), Constraint("json_schema", "{}", ("x",))],
)
def test_another_grammar_beside_calls_is_refused(text: Constraint) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        combined(AUTO, text)
    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize("text", [Constraint("choice", '["a"]'), Constraint("regex", "a+"), Constraint("lark", "x")])
def test_beside_calls_without_a_mark_only_a_schema_can_be_told_apart(text: Constraint) -> None:
    bare = CallFormat(syntax="json_object")
    assert has_bare_calls(bare)
    with pytest.raises(UnsupportedParameter, match="bare JSON") as refused:
        combined(AUTO, replace(text, param="the one that was sent"), bare)
    assert refused.value.param == "the one that was sent"
