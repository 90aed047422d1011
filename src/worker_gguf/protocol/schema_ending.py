"""Finds schemas that no finite value matches, because what they require leads back to themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from worker_gguf.protocol.schema_fault import Refused
from worker_gguf.protocol.schema_references import resolved

__all__ = ["check_ends"]

Schema = Mapping[str, Any]

_SCALARS = frozenset({"boolean", "integer", "null", "number", "string"})


def check_ends(root: object, schemas: Iterable[Schema]) -> None:
    """Raise Refused if a value of one of the schemas, once begun, could never be completed."""
    # Schemas come before those inside them, so most are decided in the first pass.
    left = list(schemas)[::-1]
    ending = _Ending(root)
    while left:
        remaining = [schema for schema in left if not ending.decide(schema)]
        if len(remaining) == len(left):
            raise Refused("requires values without an end: a required property or item leads back to itself")
        left = remaining


class _Ending:
    """Which schemas are known to have a finite value."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._known: set[int] = set()

    def decide(self, schema: Schema) -> bool:
        """Return whether a schema has a finite value, as far as the other schemas are known."""
        ends = (
            self._own_ends(schema)
            and all(map(self._is_known, schema.get("allOf", ())))
            and all(any(map(self._is_known, schema[name])) for name in ("anyOf", "oneOf") if name in schema)
            and ("$ref" not in schema or self._is_known(resolved(self._root, schema["$ref"])))
        )
        if ends:
            self._known.add(id(schema))
        return ends

    def _is_known(self, schema: object) -> bool:
        # False matches nothing. Whether a schema is contradictory shows when it is compiled.
        return isinstance(schema, bool) or id(schema) in self._known

    def _own_ends(self, schema: Schema) -> bool:
        types = schema.get("type", "null")
        listed = {types} if isinstance(types, str) else set(types)
        if listed & _SCALARS or "const" in schema or "enum" in schema:
            return True
        return ("object" in listed and self._object_ends(schema)) or ("array" in listed and self._array_ends(schema))

    def _object_ends(self, schema: Schema) -> bool:
        named = schema.get("properties", {})
        other = True if schema.get("patternProperties") else schema.get("additionalProperties", True)
        return all(self._is_known(named.get(name, other)) for name in schema.get("required", ()))

    def _array_ends(self, schema: Schema) -> bool:
        items = schema.get("items", True)
        first = items if isinstance(items, list) else schema.get("prefixItems", [])
        rest = schema.get("additionalItems", True) if isinstance(items, list) else items
        least = schema.get("minItems", 0)
        return all(map(self._is_known, first[:least])) and (least <= len(first) or self._is_known(rest))
