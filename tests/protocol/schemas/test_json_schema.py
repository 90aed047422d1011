"""Tests of the examination of JSON Schemas, which needs no llguidance. tests/constraints has what needs it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker_gguf.protocol.schemas.json_schema import Refused, examine

SECRET = "swordfish"


def prepared(schema: Any) -> Any:
    examined = examine(schema)
    assert examined.faults == ()
    return examined.schema


def faults(schema: Any) -> list[tuple[str, str]]:
    found = examine(schema).faults
    assert not any(SECRET in str(fault) for fault in found)
    return [(fault.keyword, fault.place) for fault in found]


def refusal(schema: Any) -> str:
    with pytest.raises(Refused) as refused:
        examine(schema)
    assert SECRET not in str(refused.value)
    return str(refused.value)


def chain(length: int) -> dict[str, Any]:
    """Return a schema whose references lead through `length` schemas."""
    links = {f"d{n}": {"properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": {}}}


def copies(depth: int) -> dict[str, Any]:
    """Return a schema that has two copies of the next one in each of its levels."""
    twice = {
        f"d{n}": {"properties": {key: {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"type": "object"}]} for key in "ab"}}
        for n in range(depth)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**twice, f"d{depth}": {"type": "object"}}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def test_a_plain_schema_stays_as_it_is() -> None:
    schema = {
        "type": "object",
        "properties": {"b": {"type": "string", "maxLength": 3}, "a": {"enum": [1, "x", None, {"k": [True]}]}},
        "required": ["a"],
        "additionalProperties": False,
        "unknown": {"not": 1},
    }
    assert json.dumps(prepared(schema)) == json.dumps(schema)


def test_the_schema_that_was_given_is_not_changed() -> None:
    schema = {"type": "string", "format": "date", "nullable": True, "$schema": "x", "not": {}}
    before = json.dumps(schema)
    examine(schema)
    assert json.dumps(schema) == before


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"const": SECRET}},
        {"if": {}, "then": {}},
        {"contains": {}},
        {"uniqueItems": True},
        {"propertyNames": {"pattern": SECRET}},
        {"dependentRequired": {SECRET: ["b"]}},
        {"dependentSchemas": {SECRET: {}}},
        {"unevaluatedItems": False},
        {"unevaluatedProperties": False},
        {"$dynamicRef": "#x"},
        {"$ref": "https://example.com/swordfish"},
        {"$ref": "#swordfish"},
        {"$ref": "#/$defs/swordfish"},
        {"$ref": "#/title", "title": SECRET},
        {"$ref": 3},
        {"format": "swordfish"},
        {"pattern": "swordfish(?=x)"},
        {"pattern": "(?<!x)swordfish"},
        {"pattern": r"(swordfish)\1"},
        {"pattern": r"\bswordfish"},
        {"pattern": "swordfish("},
        {"pattern": "[swordfish"},
        {"pattern": 3},
        {"patternProperties": {"(?!swordfish)": {}}},
        {"patternProperties": {"^(swordfish)$": {}, "^(?:swordfish)$": {"const": 1}}},
        {"nullable": True, "enum": [SECRET]},
        {"const": 2**53 + 1},
        {"enum": [[1e300]]},
        {"const": "swordfish\x01"},
        {"enum": []},
        {"enum": SECRET},
        {"type": SECRET},
        {"type": []},
        {"minimum": SECRET},
        {"maximum": True},
        {"exclusiveMinimum": True, "minimum": 1},
        {"minLength": -1},
        {"maxItems": 1.5},
        {"multipleOf": 0},
        {"multipleOf": 99_999_989},
        {"multipleOf": 1e-9},
        {"required": SECRET},
        {"properties": [SECRET]},
        {"properties": {"a": 3}},
        {"properties": {f"p{n}": {} for n in range(501)}},
        {"patternProperties": {f"p{n}": {} for n in range(21)}},
        {"prefixItems": {}},
        {"allOf": []},
        {"items": 3},
        {"items": [{}], "prefixItems": [{}]},
        {"minProperties": 2},
        {"maxProperties": 1, "properties": {"a": {}, "b": {}}},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    ],
    ids=lambda schema: str(schema)[:60],
)
def test_a_fault_is_found_wherever_it_is(schema: dict[str, Any]) -> None:
    keyword = faults(schema)[0][0]
    assert keyword in schema
    inside = {"properties": {"a": {"anyOf": [{"items": schema}, True]}}}
    if not str(schema.get("$ref", "")).startswith("#/"):
        assert faults(inside)[0] == (keyword, "/properties/a/anyOf/0/items")


@pytest.mark.parametrize(
    "schema",
    [
        {"uniqueItems": False},
        {"unevaluatedProperties": True},
        {"unevaluatedItems": {}},
        {"propertyNames": True},
        {"if": {"not": {}}},
        {"then": False},
        {"minContains": 3},
        {"not": False},
        {"dependentRequired": {}},
        {"additionalItems": False},
        {"$dynamicAnchor": "x"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/x"},
        {"x-guidance": {"lenient": True}},
        {"nullable": False},
        {"minProperties": 0},
    ],
    ids=str,
)
def test_what_allows_everything_is_left_out(schema: dict[str, Any]) -> None:
    assert prepared(schema) == {}


def test_a_fault_is_left_out_of_the_prepared_schema() -> None:
    examined = examine({"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)", "maxLength": 3}}})
    assert [str(fault) for fault in examined.faults] == [
        "'pattern' at #/properties/a looks ahead or behind, which is not supported"
    ]
    assert examined.schema == {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}}


def test_definitions_that_nothing_refers_to_may_have_faults() -> None:
    assert faults({"$defs": {"a": {"not": {}}}, "type": "null"}) == []
    assert faults({"$defs": {"a": {"not": {}}}, "$ref": "#/$defs/a"}) == [("not", "/$defs/a")]


def test_references_are_followed_once_and_with_escapes() -> None:
    schema = {
        "properties": {"next": {"$ref": "#"}, "other": {"$ref": "#/$defs/a~1b%25"}},
        "$defs": {"a/b%": {"items": {"$ref": "#/$defs/a~1b%25"}, "contains": {}}},
    }
    assert faults(schema) == [("contains", "/$defs/a~1b%25")]


def test_a_reference_below_an_id_of_its_own_is_refused() -> None:
    inner = {"$id": "https://example.com/inner", "properties": {"a": {"$ref": "#/$defs/x"}}}
    assert faults({"properties": {"b": inner}, "$defs": {"x": {}}}) == [("$ref", "/properties/b/properties/a")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": ["string", "null"], "nullable": True}, {"type": ["string", "null"]}),
        ({"maxLength": 2.0}, {"maxLength": 2}),
        ({"maxLength": 10**12}, {"maxLength": 1_000_000}),
        ({"maximum": 2**63 - 1}, {"maximum": 2**53}),
        ({"minimum": -(2**63) + 1}, {"minimum": -(2**53)}),
        ({"minProperties": 1, "required": ["a"]}, {"required": ["a"]}),
        ({"type": "string", "format": "password"}, {"type": "string"}),
        ({"type": "integer", "format": "int64"}, {"type": "integer", "format": "int64"}),
        ({"oneOf": [{"type": "null"}, {"type": "string"}]}, {"anyOf": [{"type": "null"}, {"type": "string"}]}),
        ({"type": "string", "pattern": r"^[^\d/]\/$"}, {"type": "string", "pattern": r"^[^\p{Nd}\x{2F}]\x{2F}$"}),
        ({"multipleOf": 0.5}, {"multipleOf": 0.5, "maximum": 10**14, "minimum": -(10**14)}),
        ({"multipleOf": 2}, {"multipleOf": 2, "maximum": 2**53, "minimum": -(2**53)}),
    ],
    ids=str,
)
def test_what_is_rewritten(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert prepared(given) == expected


def test_a_format_next_to_a_pattern_must_match_as_well() -> None:
    schema = prepared({"type": "string", "format": "date", "pattern": "^2"})
    assert schema["pattern"] == "^2"
    assert "02-29" in schema["allOf"][0]["pattern"]


def test_options_of_one_of_may_be_told_apart_by_a_property() -> None:
    schema: dict[str, Any] = {
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {
            name: {
                "type": "object",
                "properties": {"kind": {"const": name}, "age": {"type": "integer"}},
                "required": ["kind"],
            }
            for name in ("cat", "dog")
        },
    }
    assert "anyOf" in prepared(schema)
    schema["$defs"]["dog"]["required"] = ["age"]
    assert "anyOf" in prepared(schema)  # without a kind it is no cat
    schema["$defs"]["cat"]["required"] = ["age"]
    assert faults(schema) == [("oneOf", "")]


@pytest.mark.parametrize(
    ("left", "right", "differ"),
    [
        ({"type": "string"}, {"type": "null"}, True),
        ({"type": "integer"}, {"type": "number"}, False),
        ({"const": 1}, {"const": 1.0}, False),
        ({"enum": ["a", "b"]}, {"enum": ["c"]}, True),
        ({"enum": ["a", "b"]}, {"type": "string"}, False),
        ({"const": True}, {"const": 1}, True),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, {"type": ["array", "object"]}, True),
        ({"allOf": [{"type": "null"}, {}]}, {"type": "string"}, True),
        ({"type": "number", "nullable": True}, {"type": "null"}, False),
        ({"type": "number", "nullable": True}, {"type": "string"}, True),
        ({}, False, True),
        ({}, {}, False),
    ],
    ids=str,
)
def test_which_options_differ(left: Any, right: Any, differ: bool) -> None:
    assert (faults({"oneOf": [left, right]}) == []) is differ
    assert (faults({"oneOf": [right, left]}) == []) is differ


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        (False, "no answer matches"),
        (None, "must be an object"),
        ([SECRET], "must be an object"),
        (SECRET, "must be an object"),
        ({"description": SECRET * 40_000}, "256 KiB"),
        (nested(100), "nested more than 64 deep"),
        ({"const": json.loads("[" * 100 + "]" * 100)}, "nested more than 64 deep"),
        (chain(300), "400 levels"),
        (copies(30), "multiply each other"),
        (
            {"allOf": [{"anyOf": [{"required": [f"{a}{b}"]} for b in range(9)]} for a in range(9)]},
            "multiply each other",
        ),
        ({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}, "multiples of a number"),
        ({"prefixItems": [{"multipleOf": 9000 + n} for n in range(50)]}, "too long to compile"),
        ({"enum": [[n, {"a": n}] for n in range(9000)]}, "too long to compile"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "without an end"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "without an end"),
        ({"type": "array", "prefixItems": [True, {"$ref": "#"}], "minItems": 2}, "without an end"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "without an end"),
        ({"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}]}, "without an end"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_would_take_too_much_is_refused(schema: Any, part: str) -> None:
    assert part in refusal(schema)


def test_large_schemas_pass() -> None:
    assert faults({"properties": {f"p{n}": {"type": "string"} for n in range(500)}}) == []
    assert faults({"enum": [f"value {n}" for n in range(5000)]}) == []
    assert faults(chain(100)) == []
    assert faults(copies(5)) == []
    assert faults({"properties": {"child": {"items": {"$ref": "#"}}}}) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "array", "items": {"$ref": "#"}, "prefixItems": [True], "minItems": 1},
        {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    ],
    ids=str,
)
def test_recursion_that_can_end_passes(schema: dict[str, Any]) -> None:
    assert faults(schema) == []
