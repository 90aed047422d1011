"""Tests of names, and of the types that a schema allows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker_gguf.markup.offer import Offer, Types, as_json, python_as_json
from worker_gguf.markup.tool import Tool

ANY = {"string", "number", "integer", "boolean", "null", "array", "object"}


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        (True, ANY),
        ({}, ANY),
        ({"type": "string"}, {"string"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"enum": ["a", None]}, {"string", "null"}),
        ({"const": True}, {"boolean"}),
        ({"enum": [1, {}]}, {"number", "integer", "object"}),
        ({"anyOf": [{"type": "array"}, {"type": "null"}]}, {"array", "null"}),
        ({"type": "string", "anyOf": [{"minLength": 1}, {"type": "string"}]}, {"string"}),
        ({"allOf": [{"type": ["string", "null"]}, {"type": "string"}]}, {"string"}),
        ({"$ref": "#/$defs/a~1b"}, {"boolean"}),
        ({"$ref": "#/$defs/loop"}, ANY),
        ({"$ref": "#/missing"}, ANY),
        ({"$ref": "http://other"}, ANY),
        ({"$ref": "#anchor"}, ANY),
        ({"$ref": "#/anyOf/1"}, {"null"}),
        ({"$ref": "#/anyOf/2"}, ANY),
        ({"type": 5}, ANY),
    ],
)
def test_the_types_of_a_schema(schema: object, types: set[str]) -> None:
    root = {"$defs": {"a/b": {"type": "boolean"}, "loop": {"$ref": "#/$defs/loop"}}, "anyOf": [{}, {"type": "null"}]}
    assert Types(root).of(schema) == types


def test_schemas_that_refer_to_each_other_take_no_time() -> None:
    names = [f"d{number}" for number in range(40)]
    everything = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    assert Types({"$defs": dict.fromkeys(names, everything)}).of(everything) == ANY


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("12", {"integer"}, 12),
        ("12", {"string"}, "12"),
        ("12", {"string", "integer"}, 12),
        ("12", {"string", "null"}, "12"),
        ('"12"', {"string", "integer"}, '"12"'),
        ("{'a': true}", {"object"}, {"a": True}),
        ("[1,", {"array"}, "[1,"),
        ("123_456", ANY, "123_456"),
        ("NaN", {"number"}, "NaN"),
        ("1e400", {"number"}, float("inf")),
        ("", {"integer"}, ""),
        ("[" * 5000, {"array"}, "[" * 5000),
    ],
)
def test_a_text_becomes_a_value_of_an_allowed_type(text: str, types: set[str], value: object) -> None:
    assert json.loads(as_json(text, frozenset(types))) == value


def test_only_literals_of_python_are_read() -> None:
    assert python_as_json("('a', -1)") == '["a", -1]'
    assert python_as_json("{'true': \"null\"}") == '{"true": "null"}'
    assert [python_as_json(text) for text in ("f()", "{1, 2}", "b'a'", "1 +", "x")] == [None] * 5


def test_a_name_is_found_with_a_prefix_and_escaped() -> None:
    offer = Offer([Tool("a.b", {}), Tool("c&d", {})])
    assert [offer.name(text) for text in ("a.b", "functions.a.b", " c&amp;d ", "b", "")] == [
        "a.b",
        "a.b",
        "c&d",
        None,
        None,
    ]
    assert [offer.has_beginning(text) for text in ("", "a.", "functions.a.", "c&", "d")] == [
        True,
        True,
        True,
        True,
        False,
    ]


def test_keys_are_those_of_the_schema() -> None:
    properties: dict[str, Any] = {"a&lt;": {"type": "null"}, "b": {}}
    parameters = Offer([Tool("f", {"properties": properties, "additionalProperties": {"type": "array"}})]).parameters(
        "f"
    )
    assert [parameters.key(key) for key in (" b ", "a&lt;", "x&amp;y")] == ["b", "a&lt;", "x&y"]
    assert [set(parameters.types(key)) for key in ("a&lt;", "other")] == [{"null"}, {"array"}]
    assert list(parameters) == ["a&lt;", "b"]
