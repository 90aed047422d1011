"""What grammars need to know of a tool's schema."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest
from worker_gguf.markup.argument_schema import arguments_of
from worker_gguf.markup.schema_keywords import without_annotations
from worker_gguf.markup.tool import Tool
from worker_gguf.markup.tool_schema import Bounds, ToolSchema


def test_references_are_followed_and_the_keywords_beside_them_count() -> None:
    document = {"$defs": {"A": {"$ref": "#/$defs/B", "title": "A"}, "B": {"type": "string", "minLength": 1}}}
    schema = ToolSchema(document)
    assert schema.resolved({"$ref": "#/$defs/A", "minLength": 2}) == {"type": "string", "minLength": 2, "title": "A"}
    assert schema.resolved({"$ref": "#/nowhere"}) == schema.resolved({"$ref": "#nowhere"}) == {}
    assert schema.resolved(True) == {}


def test_all_of_is_merged() -> None:
    schema = {
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "allOf": [{"properties": {"b": {}}, "required": ["b"]}],
    }
    assert ToolSchema(schema).merged(schema) == {
        "properties": {"a": {"type": "string"}, "b": {}},
        "required": ["a", "b"],
    }


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
    assert ToolSchema(document).texts(schema) == ("x", "y")
    assert ToolSchema(document).texts({"anyOf": [schema, {"type": "string"}]}) is None


def test_bounds_of_a_text() -> None:
    assert ToolSchema({}).text_bounds({"minLength": 1}) == Bounds(1, None)
    assert ToolSchema({}).text_bounds({"maxLength": 5}) == Bounds(0, 5)
    assert ToolSchema({}).text_bounds({"maxLength": 10**15, "minLength": "x"}) is None


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
    assert ToolSchema({}).text_bounds({"anyOf": [short, {"type": "null"}]}) == Bounds(2, 3)
    assert ToolSchema({}).text_bounds({"anyOf": [short, long]}) == Bounds(0, 9)
    assert ToolSchema({}).text_bounds({"anyOf": [short, {"type": "string"}]}) is None
    assert ToolSchema({}).text_bounds({"anyOf": [short, long], "minLength": 4}) == Bounds(4, 9)


def questions_of(n_properties: int, n_options: int) -> ToolSchema:
    """Return the schema of many properties that refer to one definition, after each was asked for."""
    levels = {f"A{n}": {"anyOf": [{"$ref": f"#/$defs/A{n + 1}"}] * n_options} for n in range(10)}
    last = {"allOf": [{"$ref": "#/$defs/last"}] * n_options}
    definitions = {**levels, "A10": last, "last": {"type": "string", "maxLength": 3}}
    properties = {f"p{n}": {"$ref": "#/$defs/A0"} for n in range(n_properties)}
    schema = ToolSchema({"properties": properties, "$defs": definitions})
    for one in properties.values():
        assert schema.types(one) == {"string"}
        assert schema.texts(one) is None
        assert schema.text_bounds(one) == Bounds(0, 3)
    return schema


def test_each_part_of_a_schema_is_looked_at_once() -> None:
    # Paths from a property to the last definition: 20 to the power of 11.
    questions_of(100, 20)


def test_all_questions_about_a_tool_have_one_budget() -> None:
    schema = questions_of(1, 1)
    schema.count(100_000)
    schema.count(n_characters=1_000_000)
    with pytest.raises(InvalidRequest, match="too complex"):
        schema.merged({"allOf": [{"enum": list(range(100_000))}]})


@pytest.mark.parametrize("keyword", ["allOf", "anyOf"])
def test_a_part_that_leads_to_itself_is_refused(keyword: str) -> None:
    schema = ToolSchema({"$defs": {"A": {keyword: [{"$ref": "#/$defs/A"}]}}})
    with pytest.raises(InvalidRequest, match="too complex"):
        schema.texts({"$ref": "#/$defs/A"})


def test_properties_that_only_options_name_are_arguments() -> None:
    text, number = {"type": "string"}, {"type": "integer"}
    schema = {
        "properties": {"q": text},
        "required": ["q"],
        "anyOf": [{"properties": {"city": text}}, {"properties": {"q": number, "zip": text}}],
        "oneOf": [{"properties": {"zip": number}}, {"required": ["q"]}],
    }
    arguments = arguments_of(Tool("f", schema), are_values_json=True)
    assert arguments.properties == {"q": text, "city": text, "zip": {"anyOf": [text, number]}}
    assert arguments.required == {"q"}
    assert arguments.others is None
