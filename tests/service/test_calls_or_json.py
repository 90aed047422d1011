"""Tests of one schema for calls without a mark and for an answer in JSON."""

from __future__ import annotations

import json

import jsonschema
import pytest

from worker_gguf.engine.request import Constraint
from worker_gguf.markup.call_format import CallFormat, JsonCall
from worker_gguf.markup.known_formats import HERMES, LLAMA_3
from worker_gguf.markup.tool import Tool, ToolUse
from worker_gguf.service.calls_or_json import calls_or_json, has_bare_calls

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}, "default": {"$ref": "#/$defs/n"}}}
USE = ToolUse(
    (Tool("find", {"properties": {"city": {"type": "string"}}}), Tool("walk", {**NODE, "$defs": {"n": NODE}}))
)
CITY = {
    "type": "object",
    "properties": {"name": {"$ref": "#/definitions/t"}},
    "required": ["name"],
    "additionalProperties": False,
    "definitions": {"t": {"type": "string"}},
}


def combined(form: CallFormat = LLAMA_3) -> Constraint | None:
    return calls_or_json(form, USE, Constraint("json_schema", json.dumps(CITY), param="response_format"))


@pytest.mark.parametrize(
    ("value", "is_allowed"),
    [
        ({"name": "Lima"}, True),
        ({"name": "find", "parameters": {"city": "Lima"}}, True),
        ({"name": "walk", "parameters": {"next": {"default": {}}}}, True),
        ({"name": "walk", "parameters": {"default": {"next": 1}}}, False),
        ({"name": "find", "parameters": {"town": "Lima"}}, False),
        ({"name": "other", "parameters": {}}, False),
        ({"name": 1}, False),
    ],
)
def test_a_call_or_an_answer_matches_and_nothing_else(value: object, *, is_allowed: bool) -> None:
    constraint = combined()
    assert constraint is not None
    assert (constraint.kind, constraint.param) == ("json_schema", "response_format")
    assert jsonschema.Draft202012Validator(json.loads(constraint.grammar)).is_valid(value) == is_allowed


def test_only_calls_without_a_mark_need_it() -> None:
    assert has_bare_calls(LLAMA_3)
    assert not has_bare_calls(HERMES)


def test_calls_of_another_form_have_none() -> None:
    assert combined(CallFormat(syntax="json_object", json_call=JsonCall(function_key="function"))) is None
