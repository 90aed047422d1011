"""What grammars need to know of a tool's schema."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest
from worker_gguf.markup.argument_schema import (
    Bounds,
    arguments_of,
    merged,
    resolved,
    text_bounds,
    texts_of,
    without_annotations,
)
from worker_gguf.markup.tool import Tool


def test_references_are_followed_and_the_keywords_beside_them_count() -> None:
    document = {"$defs": {"A": {"$ref": "#/$defs/B", "title": "A"}, "B": {"type": "string", "minLength": 1}}}
    assert resolved({"$ref": "#/$defs/A", "minLength": 2}, document) == {"type": "string", "minLength": 2, "title": "A"}
    assert resolved({"$ref": "#/nowhere"}, document) == {}
    assert resolved(True, document) == {}


def test_all_of_is_merged() -> None:
    schema = {
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "allOf": [{"properties": {"b": {}}, "required": ["b"]}],
    }
    assert merged(schema, schema) == {"properties": {"a": {"type": "string"}, "b": {}}, "required": ["a", "b"]}


@pytest.mark.parametrize(
    ("schema", "others"),
    [
        ({}, True),
        ({"properties": {}}, True),
        ({"properties": {"a": {}}}, None),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "integer"}}, {"type": "integer"}),
        ({"additionalProperties": False}, None),
    ],
)
def test_other_arguments_are_allowed_where_the_schema_says_so_or_names_none(
    schema: dict[str, Any], others: object
) -> None:
    assert arguments_of(Tool("f", schema), are_values_json=True).others == others


def test_a_required_argument_that_is_not_described_may_be_anything() -> None:
    arguments = arguments_of(Tool("f", {"properties": {"a": {}}, "required": ["b"]}), are_values_json=True)
    assert arguments.properties == {"a": {}, "b": True}
    assert arguments.required == {"b"}


def test_texts_that_are_listed() -> None:
    document = {"$defs": {"A": {"enum": ["x", 1]}}}
    schema = {"anyOf": [{"$ref": "#/$defs/A"}, {"const": "y"}, {"type": "null"}]}
    assert texts_of(schema, document) == ("x", "y")
    assert texts_of({"anyOf": [schema, {"type": "string"}]}, document) is None


def test_bounds_of_a_text() -> None:
    assert text_bounds({"minLength": 1}, {}) == Bounds(1, None)
    assert text_bounds({"maxLength": 5}, {}) == Bounds(0, 5)
    assert text_bounds({"maxLength": 10**15, "minLength": "x"}, {}) is None


def test_annotations_are_left_out_but_not_properties_of_such_a_name() -> None:
    schema = {
        "title": "T",
        "properties": {"title": {"description": "D", "enum": [{"title": "kept"}]}},
        "items": [{"default": 1}],
    }
    assert without_annotations(schema) == {"properties": {"title": {"enum": [{"title": "kept"}]}}, "items": [{}]}


def test_a_strict_tool_may_have_any_keyword_within_values_that_are_json() -> None:
    nested = {"type": "array", "items": {"type": "string", "pattern": "a"}}
    tool = Tool("f", {"type": "object", "properties": {"a": nested}}, strict=True)
    assert arguments_of(tool, are_values_json=True).properties == {"a": nested}
    with pytest.raises(InvalidRequest, match="'pattern'"):
        arguments_of(tool, are_values_json=False)
    with pytest.raises(InvalidRequest, match="'patternProperties'"):
        arguments_of(Tool("f", {"patternProperties": {"a": {}}}, strict=True), are_values_json=True)


def test_the_widest_bounds_of_the_options_count() -> None:
    short, long = {"type": "string", "minLength": 2, "maxLength": 3}, {"type": "string", "maxLength": 9}
    assert text_bounds({"anyOf": [short, {"type": "null"}]}, {}) == Bounds(2, 3)
    assert text_bounds({"anyOf": [short, long]}, {}) == Bounds(0, 9)
    assert text_bounds({"anyOf": [short, {"type": "string"}]}, {}) is None
    assert text_bounds({"anyOf": [short, long], "minLength": 4}, {}) == Bounds(4, 9)
