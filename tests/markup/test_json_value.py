"""JSON values in a grammar: a part of a schema has the definitions that it needs, and no others."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from worker_gguf.markup.json_value import json_value

LIST = {"type": "object", "properties": {"value": {"$ref": "#/$defs/n"}, "next": {"$ref": "#/$defs/list"}}}
DOCUMENT: dict[str, Any] = {
    "properties": {"a": {"$ref": "#/$defs/list", "required": ["value"]}, "b": {"type": "null"}},
    "anyOf": [{}, {"minimum": 3}],
    "$defs": {"n": {"type": "integer"}, "list": LIST, "unused": {"type": "string"}},
}


def schema_of(part: object) -> Any:
    schema = json.loads(json_value(part, DOCUMENT, is_lenient=True).removeprefix("%json "))
    del schema["x-guidance"]
    return schema


def test_a_part_has_only_the_definitions_that_are_reached() -> None:
    moved = schema_of(DOCUMENT["properties"]["a"])
    assert len(moved["$defs"]) == 2
    assert "string" not in json.dumps(moved)
    jsonschema.validate({"value": 1, "next": {"value": 2}}, moved)
    wrong: list[Any] = [{"value": 1, "next": {"value": "x"}}, {"next": {}}]
    for value in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value, moved)


def test_a_part_without_references_has_no_definitions() -> None:
    assert schema_of({"const": {"$ref": "#/$defs/n"}, "type": "object"}) == {
        "const": {"$ref": "#/$defs/n"},
        "type": "object",
    }


@pytest.mark.parametrize("name", ["default", "examples", "enum", "const", "$ref", "$defs", "properties"])
def test_a_property_may_have_the_name_of_a_keyword(name: str) -> None:
    moved = schema_of({"properties": {name: {"$ref": "#/$defs/n"}}})
    jsonschema.validate({name: 1}, moved)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({name: "x"}, moved)


def test_a_reference_to_the_document_or_into_a_list_is_moved() -> None:
    whole = schema_of({"$ref": "#"})
    jsonschema.validate({"a": {"value": 1}, "b": None}, whole)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"b": 1}, whole)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(2, schema_of({"$ref": "#/anyOf/1"}))


@pytest.mark.parametrize("reference", ["#/$defs/missing", "http://example.com/a", "#anchor"])
def test_a_reference_that_leads_nowhere_stays(reference: str) -> None:
    assert schema_of({"$ref": reference}) == {"$ref": reference}
