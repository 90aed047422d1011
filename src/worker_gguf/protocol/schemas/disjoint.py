"""Proves that no value matches two schemas. Then `oneOf` means the same as `anyOf`, which a grammar can express."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import combinations
from typing import Any

from worker_gguf.protocol.schemas.fault import Refused
from worker_gguf.protocol.schemas.references import resolved

__all__ = ["MOST_STEPS", "Prover"]

MOST_STEPS = 60_000
"""How many steps are taken for one schema, with all its oneOfs. 60,000 take about 50 ms."""

_MOST_DEPTH = 6
# Of options without a discriminator.
_MOST_PAIRS = 300
_TYPES = frozenset({"array", "boolean", "null", "number", "object", "string"})
_ENCODER = json.JSONEncoder(sort_keys=True)

Schema = Mapping[str, Any]


class _Exhausted(Exception):
    """There are no steps left."""


class Prover:
    """Compares schemas below one root, which must stay as they are. Each is looked at once for each depth."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._left = MOST_STEPS
        self._parts: dict[int, list[object]] = {}
        self._constants: dict[int, frozenset[str]] = {}
        self._types: dict[tuple[int, int], frozenset[str]] = {}
        self._values: dict[tuple[int, int], frozenset[str] | None] = {}
        self._required: dict[tuple[int, int], frozenset[str]] = {}
        self._properties: dict[tuple[int, str, int], object] = {}
        self._differ: dict[tuple[int, int, int], bool] = {}

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return MOST_STEPS - self._left

    def are_disjoint(self, options: Iterable[object]) -> bool:
        """Return whether each value matches at most one of the options, as far as their types and constants show.

        They count as not disjoint when there are no steps left.
        """
        listed = list(options)
        try:
            if self._have_discriminator(listed):
                return True
            if len(listed) * (len(listed) - 1) // 2 > _MOST_PAIRS:
                return False
            return all(self._do_differ(left, right, 0) for left, right in combinations(listed, 2))
        except _Exhausted:
            return False

    def _spend(self, steps: int = 1) -> None:
        self._left = max(self._left - steps, 0)
        if not self._left:
            raise _Exhausted

    def _have_discriminator(self, options: list[object]) -> bool:
        """Return whether all options are objects that require a property which has other constants in each."""
        if any(self._types_of(option, 0) != {"object"} for option in options):
            return False
        names = self._required_of(options[0], 0)
        for option in options[1:]:
            names &= self._required_of(option, 0)
            self._spend(len(names))
        return any(self._is_discriminator(name, options) for name in sorted(names))

    def _is_discriminator(self, name: str, options: list[object]) -> bool:
        found: set[str] = set()
        for option in options:
            values = self._values_of(self._property(option, name, 0), 0)
            if values is None:
                return False
            self._spend(len(values))
            if not found.isdisjoint(values):
                return False
            found |= values
        return True

    def _do_differ(self, left: object, right: object, depth: int) -> bool:
        self._spend()
        if left is False or right is False:
            return True
        if not isinstance(left, dict) or not isinstance(right, dict) or depth > _MOST_DEPTH:
            return False
        key = (id(left), id(right), depth)
        if key not in self._differ:
            self._differ[key] = self._compare(left, right, depth)
        return self._differ[key]

    def _compare(self, left: Schema, right: Schema, depth: int) -> bool:
        if any(self._alternatives_differ(one, other, depth) for one, other in ((left, right), (right, left))):
            return True
        shared = self._types_of(left, depth) & self._types_of(right, depth)
        if not shared:
            return True
        one, other = self._values_of(left, depth), self._values_of(right, depth)
        if one is not None and other is not None:
            self._spend(min(len(one), len(other)))
            if one.isdisjoint(other):
                return True
        return shared == {"object"} and self._properties_differ(left, right, depth)

    def _alternatives_differ(self, schema: Schema, other: Schema, depth: int) -> bool:
        """Return whether each alternative of a schema, or one of the parts it must match, differs from the other."""
        for name in ("anyOf", "oneOf"):
            options = schema.get(name)
            if isinstance(options, list) and all(self._do_differ(option, other, depth + 1) for option in options):
                return True
        return any(self._do_differ(part, other, depth + 1) for part in self._parts_of(schema))

    def _parts_of(self, schema: Schema) -> list[object]:
        """Return the schemas that a value must match as well."""
        if id(schema) not in self._parts:
            parts = list(schema["allOf"]) if isinstance(schema.get("allOf"), list) else []
            if "$ref" in schema:
                with suppress(Refused):
                    parts.append(resolved(self._root, schema["$ref"]))
            self._parts[id(schema)] = parts
        return self._parts[id(schema)]

    def _types_of(self, schema: object, depth: int) -> frozenset[str]:
        self._spend()
        if not isinstance(schema, dict) or depth > _MOST_DEPTH:
            return _TYPES if schema is not False else frozenset()
        key = (id(schema), depth)
        if key not in self._types:
            self._types[key] = self._found_types(schema, depth)
        return self._types[key]

    def _found_types(self, schema: Schema, depth: int) -> frozenset[str]:
        types = schema.get("type", [])
        named = [types] if isinstance(types, str) else types if isinstance(types, list) else []
        self._spend(len(named))
        found = frozenset("number" if name == "integer" else str(name) for name in named) or _TYPES
        for name in ("anyOf", "oneOf"):
            if isinstance(schema.get(name), list):
                found &= frozenset().union(*(self._types_of(option, depth + 1) for option in schema[name]))
        for part in self._parts_of(schema):
            found &= self._types_of(part, depth + 1)
        values = _own_values(schema)
        if values is None:
            return found
        self._spend(len(values))
        return found & {_type_of(value) for value in values}

    def _values_of(self, schema: object, depth: int) -> frozenset[str] | None:
        """Return all values that a schema can have, each as canonical JSON, or None if they are not listed."""
        self._spend()
        if not isinstance(schema, dict) or depth > _MOST_DEPTH:
            return None
        values = _own_values(schema)
        if values is not None:
            if id(schema) not in self._constants:
                self._spend(len(values))
                self._constants[id(schema)] = frozenset(map(_canonical, values))
            return self._constants[id(schema)]
        key = (id(schema), depth)
        if key not in self._values:
            found = (self._values_of(part, depth + 1) for part in self._parts_of(schema))
            self._values[key] = next((values for values in found if values), None)
        return self._values[key]

    def _properties_differ(self, left: Schema, right: Schema, depth: int) -> bool:
        """Return whether a property that one of them requires cannot have one value for both."""
        required = self._required_of(left, depth), self._required_of(right, depth)
        self._spend(sum(map(len, required)))
        for name in sorted(required[0] | required[1]):
            one, other = self._property(left, name, depth), self._property(right, name, depth)
            if one is not None and other is not None and self._do_differ(one, other, depth + 1):
                return True
        return False

    def _required_of(self, schema: object, depth: int) -> frozenset[str]:
        self._spend()
        if not isinstance(schema, dict) or depth > _MOST_DEPTH:
            return frozenset()
        key = (id(schema), depth)
        if key not in self._required:
            own = schema.get("required")
            listed = own if isinstance(own, list) else []
            self._spend(len(listed))
            found = {name for name in listed if isinstance(name, str)}
            for part in self._parts_of(schema):
                more = self._required_of(part, depth + 1)
                self._spend(len(more))
                found |= more
            self._required[key] = frozenset(found)
        return self._required[key]

    def _property(self, schema: object, name: str, depth: int) -> object:
        """Return a schema that the property must match, or None."""
        self._spend()
        if not isinstance(schema, dict) or depth > _MOST_DEPTH:
            return None
        properties = schema.get("properties")
        if isinstance(properties, dict) and name in properties:
            found: object = properties[name]
            return found
        key = (id(schema), name, depth)
        if key not in self._properties:
            parts = (self._property(part, name, depth + 1) for part in self._parts_of(schema))
            self._properties[key] = next((part for part in parts if part is not None), None)
        return self._properties[key]


def _own_values(schema: Schema) -> list[object] | None:
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if isinstance(schema.get("enum"), list) else None


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _canonical(value: object) -> str:
    """Return one text for equal values: 1 and 1.0 are equal in JSON Schema."""
    return _ENCODER.encode(_whole(value))


def _whole(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return {key: _whole(item) for key, item in value.items()} if isinstance(value, dict) else value
