"""Tools whose schemas are combined of several, or are large."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.markup.vocabulary_of_grammars import GrammarVocabulary
from tests.markup.written_calls import write_calls
from worker_gguf.errors import InvalidRequest
from worker_gguf.markup import known_formats as known
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.call_grammar import call_constraint
from worker_gguf.markup.tool import Tool, ToolUse

FORMS = [known.HERMES, known.QWEN3_CODER, known.GEMMA_4, known.LFM2]
TEXT, NUMBER = {"type": "string"}, {"type": "integer"}


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[GrammarVocabulary]:
    made = GrammarVocabulary()
    yield made
    made.close()


def object_of(**properties: Any) -> dict[str, Any]:
    return {"properties": properties, "required": [*properties]}


def grammar_of(form: CallFormat, schema: dict[str, Any]) -> str:
    return call_constraint(form, ToolUse((Tool("f", schema),), is_required=True), lambda _: None).grammar


BASE = {"type": "object", **object_of(x=TEXT)}
COMBINED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"type": "object", "allOf": [{"$ref": "#/$defs/Base"}, object_of(y=NUMBER)], "$defs": {"Base": BASE}},
        {"x": "a", "y": 1},
    ),
    (
        {
            "type": "object",
            **object_of(kind=TEXT, path=TEXT),
            "oneOf": [
                {"properties": {"kind": {"const": "a"}}},
                {"properties": {"kind": {"const": "b"}, "n": NUMBER}, "required": ["n"]},
            ],
        },
        {"kind": "a", "path": "p"},
    ),
    (
        {"type": "object", **object_of(q=TEXT), "anyOf": [object_of(city=TEXT), object_of(zip=TEXT)]},
        {"q": "a", "city": "b"},
    ),
    (
        {
            "type": "object",
            "properties": {"o": {"$ref": "#/$defs/Base", **object_of(y=NUMBER)}},
            "$defs": {"Base": BASE},
        },
        {"o": {"x": "a", "y": 1}},
    ),
    (
        {
            "type": "object",
            "properties": {
                "o": {"type": "object", **object_of(q=TEXT), "anyOf": [object_of(c=TEXT), object_of(z=TEXT)]}
            },
        },
        {"o": {"q": "a", "c": "b"}},
    ),
    ({"type": "object", "properties": {"a": TEXT}, "required": ["a", "b"]}, {"a": "x", "b": "y"}),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("schema", "arguments"), COMBINED)
def test_arguments_that_several_schemas_describe_can_be_written(
    vocabulary: GrammarVocabulary, form: CallFormat, schema: dict[str, Any], arguments: dict[str, Any]
) -> None:
    jsonschema.validate(arguments, schema)
    constraint = call_constraint(form, ToolUse((Tool("f", schema),), is_required=True), vocabulary.token_of)
    assert vocabulary.accepts(constraint, write_calls(form, [("f", arguments)]), has_control=True)


@pytest.mark.parametrize("form", FORMS)
def test_definitions_that_use_each_other_often_cost_little(vocabulary: GrammarVocabulary, form: CallFormat) -> None:
    levels = {f"A{n}": {"allOf": [{"$ref": f"#/$defs/A{n + 1}"}] * 3} for n in range(20)}
    properties = {f"p{n}": {"$ref": "#/$defs/A0"} for n in range(60)}
    schema = {"type": "object", "properties": properties, "$defs": {**levels, "A20": NUMBER}}
    constraint = call_constraint(form, ToolUse((Tool("f", schema),), is_required=True), vocabulary.token_of)
    assert vocabulary.accepts(constraint, write_calls(form, [("f", {"p59": 7})]), has_control=True)


@pytest.mark.parametrize("form", FORMS)
def test_a_grammar_does_not_repeat_the_definitions_for_each_property(form: CallFormat) -> None:
    properties = {f"p{n}": {"$ref": "#/$defs/x", "minimum": n} for n in range(400)}
    others = {f"n{n}": {"type": "integer", "minimum": n} for n in range(400)}
    schema = {"type": "object", "properties": properties, "$defs": {"x": NUMBER, **others}}
    assert len(grammar_of(form, schema)) < 10 * len(json.dumps(schema))


def test_a_grammar_that_would_be_too_long_is_refused() -> None:
    large = {"type": "array", "items": {"enum": [f"value number {n}" for n in range(5000)]}}
    properties = {f"p{n}": {"$ref": "#/$defs/x", "minItems": n} for n in range(50)}
    with pytest.raises(InvalidRequest, match="too large") as error:
        grammar_of(known.QWEN3_CODER, {"type": "object", "properties": properties, "$defs": {"x": large}})
    assert error.value.param == "tools"
