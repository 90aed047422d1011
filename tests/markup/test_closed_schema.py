"""Tests of closed schemas: what matches one matches the schema that it was made from."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings

from tests.markup.named_instances import INSTANCES, documents, has_only_named
from worker_gguf.markup.closed_schema import closed

NAMED: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    "schema",
    [
        NAMED,
        {"type": "array", "items": NAMED},
        {"anyOf": [NAMED, {"type": "null"}]},
        {"$defs": {"n": NAMED}, "$ref": "#/$defs/n"},
        {"type": "object", "properties": {"a": NAMED, "properties": NAMED}},
    ],
)
def test_objects_with_named_properties_have_no_others(schema: dict[str, Any]) -> None:
    def objects(value: object) -> list[dict[str, Any]]:
        if isinstance(value, list):
            return [found for part in value for found in objects(part)]
        if not isinstance(value, dict):
            return []
        own = [value] if isinstance(value.get("properties"), dict) and "type" in value else []
        return own + [found for part in value.values() for found in objects(part)]

    found = objects(closed(schema))
    assert found
    assert all(part["additionalProperties"] is False for part in found)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {}},
        NAMED | {"additionalProperties": True},
        NAMED | {"additionalProperties": {"type": "integer"}},
        NAMED | {"patternProperties": {"^x": {}}},
        NAMED | {"minProperties": 3},
        {"allOf": [NAMED, {"properties": {"b": {"type": "integer"}}}]},
        NAMED | {"anyOf": [{"required": ["b"]}, {"required": ["c"]}]},
        {"const": NAMED},
        {"enum": [NAMED]},
    ],
)
def test_what_says_that_other_names_are_allowed_stays(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_what_matches_a_closed_schema_matches_the_given_one() -> None:
    schema = {"type": "object", "properties": {"a": NAMED, "b": {"type": "array", "items": NAMED}}, "required": ["a"]}
    for value in ({"a": {"a": "x"}}, {"a": {}, "b": [{}, {"a": "y"}]}):
        jsonschema.validate(value, closed(schema))
        jsonschema.validate(value, schema)
    for other in ({"a": {}, "c": 1}, {"a": {"z": 1}}, {"a": {}, "b": [{"z": 1}]}):
        jsonschema.validate(other, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(other, closed(schema))


def kind(name: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"kind": {"const": name}, **properties},
        "required": ["kind", *properties],
    }


@pytest.mark.parametrize(
    "options",
    [
        [kind("a"), kind("b", n={"type": "integer"})],
        [{"type": "object", "properties": {key: {}}, "required": [key]} for key in "ab"],
        [NAMED, {"type": "null"}, {"type": "string", "pattern": "x"}],
    ],
)
def test_options_of_which_no_value_matches_two_are_closed(options: list[dict[str, Any]]) -> None:
    found = closed({"oneOf": options})["oneOf"]
    assert found == [one | {"additionalProperties": False} if one["type"] == "object" else one for one in options]


def test_options_that_a_value_would_then_match_alone_stay() -> None:
    schema = {"oneOf": [kind("a"), kind("a", n={"type": "integer"})]}
    assert closed(schema) == schema


BASE: dict[str, Any] = {"type": "object", "properties": {"x": NAMED}}


@pytest.mark.parametrize(
    "beside",
    [
        {"allOf": [{"$ref": "#/$defs/Base"}, {"properties": {"y": {}}}]},
        {"$ref": "#/$defs/Base", "properties": {"y": {}}},
        {"properties": {"y": {}}, "anyOf": [{"$ref": "#/$defs/Base"}, BASE]},
        {"properties": {"y": {}}, "not": {"$ref": "#/$defs/Base"}, "if": {"required": ["y"]}},
    ],
)
def test_a_definition_that_describes_an_object_with_others_stays(beside: dict[str, Any]) -> None:
    schema = {"type": "object", **beside, "$defs": {"Base": {"$ref": "#/$defs/Inner"}, "Inner": BASE}}
    assert closed(schema) == schema


def test_a_definition_that_stands_alone_in_all_of_is_closed() -> None:
    schema = {"properties": {"a": {"allOf": [{"$ref": "#/$defs/n"}]}}, "$defs": {"n": NAMED}}
    assert closed(schema)["$defs"]["n"]["additionalProperties"] is False


def test_a_property_that_is_only_required_is_named() -> None:
    assert closed(NAMED | {"required": ["b"]})["properties"] == {**NAMED["properties"], "b": {}}


def test_options_that_require_named_properties_leave_the_object_closed() -> None:
    schema = NAMED | {"anyOf": [{"required": ["a"]}, {"type": "object", "required": []}]}
    assert closed(schema) == schema | {"additionalProperties": False}


def test_properties_whose_names_are_keywords() -> None:
    schema = {"type": "object", "properties": dict.fromkeys(("default", "enum", "const", "examples"), NAMED)}
    assert all(one["additionalProperties"] is False for one in closed(schema)["properties"].values())


@settings(max_examples=300)
@given(document=documents())
def test_a_closed_schema_allows_what_has_only_named_properties_and_nothing_that_was_not_allowed(
    document: dict[str, Any],
) -> None:
    before, after = (jsonschema.Draft202012Validator(one) for one in (document, closed(document)))
    for value in INSTANCES:
        if after.is_valid(value):
            assert before.is_valid(value), value
        elif before.is_valid(value):
            assert not has_only_named(value, [document], document), value
