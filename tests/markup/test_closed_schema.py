"""Tests of closed schemas: what matches one matches the schema that it was made from."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from worker_gguf.markup.closed_schema import closed

NAMED = {"type": "object", "properties": {"a": {"type": "string"}}}


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
