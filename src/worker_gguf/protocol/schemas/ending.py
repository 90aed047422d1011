"""Finds schemas that no finite value matches, because what they require leads back to themselves."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from worker_gguf.protocol.schemas.fault import Refused
from worker_gguf.protocol.schemas.references import resolved

__all__ = ["check_ends"]

Schema = Mapping[str, Any]

_SCALARS = frozenset({"boolean", "integer", "null", "number", "string"})


def check_ends(root: object, schemas: Iterable[Schema]) -> None:
    """Raise Refused if a value of one of the schemas, once begun, could never be completed."""
    listed = list(schemas)
    ending = _Ending(root)
    for schema in listed:
        ending.add(schema)
    if any(id(schema) not in ending.known for schema in listed):
        raise Refused("requires values without an end: a required property or item leads back to itself")


class _Rule(Struct):
    """Proves a node when all that it waits for is known."""

    node: Hashable
    n_left: int


class _Ending:
    """Which schemas are known to have a finite value, by their id. What a keyword asks for is a node as well.

    Each rule is looked at once for each node that it waits for, so that no order of the schemas takes long.
    """

    def __init__(self, root: object) -> None:
        self.known: set[Hashable] = set()
        self._root = root
        self._waiting: dict[Hashable, list[_Rule]] = {}

    def add(self, schema: Schema) -> None:
        """Add the rules by which a schema has a finite value."""
        needed: list[Hashable] = _nodes(schema.get("allOf", ()))
        if "$ref" in schema:
            needed += _nodes([resolved(self._root, schema["$ref"])])
        for name in ("anyOf", "oneOf"):
            if name in schema:
                needed.append(self._one_of((id(schema), name), ([option] for option in schema[name])))
        needed.append(self._one_of((id(schema), "type"), _own_ways(schema)))
        self._rule(id(schema), needed)

    def _one_of(self, node: Hashable, ways: Iterable[list[object]]) -> Hashable:
        """Let a node be proven by all schemas of one of the ways."""
        for way in ways:
            self._rule(node, _nodes(way))
        return node

    def _rule(self, node: Hashable, needed: Iterable[Hashable]) -> None:
        unknown = set(needed) - self.known
        if unknown:
            rule = _Rule(node, len(unknown))
            for other in unknown:
                self._waiting.setdefault(other, []).append(rule)
        else:
            self._prove(node)

    def _prove(self, node: Hashable) -> None:
        proven = [node]
        while proven:
            node = proven.pop()
            self.known.add(node)
            for rule in self._waiting.pop(node, ()):
                rule.n_left -= 1
                if not rule.n_left:
                    proven.append(rule.node)


def _nodes(schemas: Iterable[object]) -> list[Hashable]:
    # False matches nothing. Whether a schema is contradictory shows when it is compiled.
    return [id(schema) for schema in schemas if isinstance(schema, dict)]


def _own_ways(schema: Schema) -> list[list[object]]:
    """Return the ways to a value, without the schemas that apply to all of it: what must end for each of them."""
    types = schema.get("type", "null")
    listed = {types} if isinstance(types, str) else set(types)
    if listed & _SCALARS or "const" in schema or "enum" in schema:
        return [[]]
    return [_needed_by_object(schema)] * ("object" in listed) + [_needed_by_array(schema)] * ("array" in listed)


def _needed_by_object(schema: Schema) -> list[object]:
    named = schema.get("properties", {})
    other = True if schema.get("patternProperties") else schema.get("additionalProperties", True)
    return [named.get(name, other) for name in schema.get("required", ())]


def _needed_by_array(schema: Schema) -> list[object]:
    items = schema.get("items", True)
    first = items if isinstance(items, list) else schema.get("prefixItems", [])
    rest = schema.get("additionalItems", True) if isinstance(items, list) else items
    least = schema.get("minItems", 0)
    return first[:least] + [rest] * (least > len(first))
