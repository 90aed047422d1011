"""Small JSON Schemas, and small values, of which it can be told whether they have only properties that are named."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import jsonschema
from hypothesis import strategies as st

__all__ = ["INSTANCES", "documents", "has_only_named"]

Schema = dict[str, Any]
_INNER: list[Any] = [1, "x", {}, {"a": 1}, {"b": "x"}, {"a": "x", "b": 1}, [{"a": 1}]]
INSTANCES: list[Any] = [
    *_INNER,
    *({"a": one} for one in _INNER),
    *({"b": one} for one in _INNER),
    *({"a": one, "b": other} for one, other in product(_INNER, _INNER)),
    *({"a": one, "c": 1} for one in _INNER),
    {"a": {"a": {"a": 1}}},
    {"b": {"a": {"b": 1}}},
]
_LEAVES: list[Any] = [{"type": "integer"}, {"type": "string"}, {}, {"const": "x"}, {"enum": ["x", 1]}, True]
_OBJECTS = ("required", "type", "allOf", "anyOf", "oneOf", "$ref", "items", "not", "additionalProperties")
_OF_SCHEMAS = ("allOf", "anyOf", "oneOf")


@st.composite
def _schema(draw: st.DrawFn, depth: int = 0) -> Any:
    if depth > 2 or (depth and draw(st.integers(0, 2)) == 0):
        return draw(st.sampled_from(_LEAVES))
    result: Schema = {}
    if draw(st.integers(0, 3)):
        result["properties"] = {key: draw(_schema(depth + 1)) for key in draw(st.sets(st.sampled_from("ab")))}
    for keyword in draw(st.lists(st.sampled_from(_OBJECTS), max_size=2, unique=True)):
        match keyword:
            case "required":
                result[keyword] = draw(st.lists(st.sampled_from("ab"), unique=True))
            case "type":
                result[keyword] = draw(st.sampled_from(["object", ["object", "string"]]))
            case "$ref":
                result[keyword] = draw(st.sampled_from(["#/$defs/D", "#/$defs/E", "#", "#/properties/a"]))
            case "items" | "not" | "additionalProperties":
                result[keyword] = draw(_schema(depth + 1))
            case _:
                result[keyword] = draw(st.lists(_schema(depth + 1), min_size=1, max_size=2))
    return result


@st.composite
def documents(draw: st.DrawFn) -> Schema:
    """Return schemas whose references can all be followed to their ends."""

    document: Schema = draw(_schema())
    document["$defs"] = {"D": draw(_schema(1)), "E": draw(_schema(1))}
    document.setdefault("properties", {}).setdefault("a", {})
    return draw(st.just(document).filter(lambda whole: not any(_loops(one, whole) for one in _places(whole))))


def _places(schema: Any) -> Iterator[Schema]:
    """Yield all schemas in a schema, and some of what is none."""
    for one in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _places(one)
    if isinstance(schema, dict):
        yield schema


def _loops(schema: Any, document: Schema, above: tuple[int, ...] = ()) -> bool:
    """Whether a schema leads to itself for the same value."""
    if not isinstance(schema, dict):
        return False
    together = [one for key in _OF_SCHEMAS for one in schema.get(key, ())] + _under("not", [schema])
    if isinstance(schema.get("$ref"), str):
        together.append(_target(schema["$ref"], document))
    return id(schema) in above or any(_loops(one, document, (*above, id(schema))) for one in together)


def _target(reference: str, document: Schema) -> Any:
    found: Any = document
    for step in reference.split("/")[1:]:
        found = found[step]
    return found


def has_only_named(value: object, schemas: list[Any], document: Schema) -> bool:
    """Whether a value matches all these schemas for a choice of options that names all of its properties.

    Where no schema names any, or one describes the others, all properties count as named.
    """
    return any(_fits(value, together, document) for together in _choices(schemas, document))


def _fits(value: object, together: list[Any], document: Schema) -> bool:
    whole = jsonschema.Draft202012Validator(document)
    if not all(whole.evolve(schema=one).is_valid(value) for one in together):
        return False
    if isinstance(value, list):
        return all(has_only_named(item, _under("items", together), document) for item in value)
    if not isinstance(value, dict):
        return True
    names = {key for one in together for key in (*one.get("properties", {}), *one.get("required", ()))}
    is_open = not any(one.get("properties") for one in together) or any("additionalProperties" in o for o in together)
    return (is_open or value.keys() <= names) and all(
        has_only_named(inner, [part for one in together for part in _of_member(one, key)], document)
        for key, inner in value.items()
    )


def _of_member(schema: Schema, key: str) -> list[Any]:
    properties = schema.get("properties", {})
    return [properties[key]] if key in properties else _under("additionalProperties", [schema])


def _under(keyword: str, schemas: list[Any]) -> list[Any]:
    return [one[keyword] for one in schemas if keyword in one]


def _choices(schemas: list[Any], document: Schema) -> Iterator[list[Any]]:
    """Yield the schemas without references and options, for each choice of options."""
    if not schemas:
        yield []
        return
    first, *rest = schemas
    if not isinstance(first, dict):
        if first:
            yield from _choices(rest, document)
        return
    own = {key: one for key, one in first.items() if key not in (*_OF_SCHEMAS, "$ref", "$defs")}
    needed = [*first.get("allOf", ())]
    if "$ref" in first:
        needed.append(_target(first["$ref"], document))
    for chosen in product(*(first[key] for key in ("anyOf", "oneOf") if key in first)):
        for others in _choices([*needed, *chosen, *rest], document):
            yield [own, *others]
