"""Proves that no value matches two schemas. Then `oneOf` means the same as `anyOf`, which a grammar can express."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import combinations
from typing import Any

from worker_gguf.protocol.schema_fault import Refused
from worker_gguf.protocol.schema_references import resolved

__all__ = ["are_disjoint"]

_MOST_DEPTH = 6
# Comparing a pair takes up to 0.1 ms.
_MOST_PAIRS = 300
_TYPES = frozenset({"array", "boolean", "null", "number", "object", "string"})

Schema = Mapping[str, Any]


def are_disjoint(root: object, options: Iterable[object]) -> bool:
    """Return whether each value matches at most one of the options, as far as their types and constants show."""
    listed = list(options)
    prover = _Prover(root)
    if prover.have_discriminator(listed):
        return True
    if len(listed) * (len(listed) - 1) // 2 > _MOST_PAIRS:
        return False
    return all(prover.differ(left, right, 0) for left, right in combinations(listed, 2))


class _Prover:
    def __init__(self, root: object) -> None:
        self._root = root

    def have_discriminator(self, options: list[object]) -> bool:
        """Return whether all options are objects that require a property which has other constants in each."""
        if any(self._types(option, 0) != {"object"} for option in options):
            return False
        names = set.intersection(*(self._required(option, 0) for option in options))
        for name in names:
            values = [self._values(self._property(option, name, 0), 0) for option in options]
            known = [found for found in values if found is not None]
            if len(known) == len(options) and sum(map(len, known)) == len(frozenset().union(*known)):
                return True
        return False

    def differ(self, left: object, right: object, depth: int) -> bool:
        if left is False or right is False:
            return True
        if not isinstance(left, dict) or not isinstance(right, dict) or depth > _MOST_DEPTH:
            return False
        if any(self._alternatives_differ(one, other, depth) for one, other in ((left, right), (right, left))):
            return True
        shared = self._types(left, depth) & self._types(right, depth)
        values = self._values(left, depth), self._values(right, depth)
        if not shared or (None not in values and not set(values[0] or ()) & set(values[1] or ())):
            return True
        return shared == {"object"} and self._properties_differ(left, right, depth)

    def _alternatives_differ(self, schema: Schema, other: Schema, depth: int) -> bool:
        """Return whether each alternative of a schema, or one of the parts it must match, differs from the other."""
        for name in ("anyOf", "oneOf"):
            options = schema.get(name)
            if isinstance(options, list) and all(self.differ(option, other, depth + 1) for option in options):
                return True
        return any(self.differ(part, other, depth + 1) for part in self._parts(schema))

    def _parts(self, schema: Schema) -> list[object]:
        """Return the schemas that a value must match as well."""
        parts = list(schema["allOf"]) if isinstance(schema.get("allOf"), list) else []
        if "$ref" in schema:
            with suppress(Refused):
                parts.append(resolved(self._root, schema["$ref"]))
        return parts

    def _types(self, schema: object, depth: int) -> frozenset[str]:
        if not isinstance(schema, dict) or depth > _MOST_DEPTH:
            return _TYPES if schema is not False else frozenset()
        types = schema.get("type", [])
        named = [types] if isinstance(types, str) else types if isinstance(types, list) else []
        found = frozenset("number" if name == "integer" else str(name) for name in named) or _TYPES
        for name in ("anyOf", "oneOf"):
            if isinstance(schema.get(name), list):
                found &= frozenset().union(*(self._types(option, depth + 1) for option in schema[name]))
        for part in self._parts(schema):
            found &= self._types(part, depth + 1)
        values = _own_values(schema)
        return found if values is None else found & {_type_of(value) for value in values}

    def _values(self, schema: object, depth: int) -> frozenset[str] | None:
        """Return all values that a schema can have, each as canonical JSON, or None if they are not listed."""
        if not isinstance(schema, dict) or depth > _MOST_DEPTH:
            return None
        values = _own_values(schema)
        if values is not None:
            return frozenset(map(_canonical, values))
        return next((found for part in self._parts(schema) if (found := self._values(part, depth + 1))), None)

    def _properties_differ(self, left: Schema, right: Schema, depth: int) -> bool:
        """Return whether a property that one of them requires cannot have one value for both."""
        names = {*self._required(left, depth), *self._required(right, depth)}
        for name in names:
            one, other = self._property(left, name, depth), self._property(right, name, depth)
            if one is not None and other is not None and self.differ(one, other, depth + 1):
                return True
        return False

    def _required(self, schema: object, depth: int) -> set[str]:
        if not isinstance(schema, dict) or depth > _MOST_DEPTH:
            return set()
        own = schema.get("required")
        found = {name for name in own if isinstance(name, str)} if isinstance(own, list) else set()
        return found.union(*(self._required(part, depth + 1) for part in self._parts(schema)))

    def _property(self, schema: object, name: str, depth: int) -> object:
        """Return a schema that the property must match, or None."""
        if not isinstance(schema, dict) or depth > _MOST_DEPTH:
            return None
        properties = schema.get("properties")
        if isinstance(properties, dict) and name in properties:
            found: object = properties[name]
            return found
        parts = (self._property(part, name, depth + 1) for part in self._parts(schema))
        return next((part for part in parts if part is not None), None)


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
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return {key: _whole(item) for key, item in value.items()} if isinstance(value, dict) else value
