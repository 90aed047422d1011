"""Closes the objects of a tool's schema: a function has the arguments that it names and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["closed"]

# The values of these keywords are data and no schemas.
_DATA = frozenset({"const", "default", "enum", "examples"})
# With one of these next to `properties`, other names are meant to be allowed, or are named elsewhere.
_OPEN = frozenset(
    {"additionalProperties", "patternProperties", "unevaluatedProperties", "minProperties"}
    | {"$ref", "allOf", "anyOf", "oneOf", "if"}
)


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema whose objects have only the properties that it names, where it does not say anything else.

    What matches it matches the given schema, too. An object without named properties stays as it is.
    """
    return {key: value if key in _DATA else _closed_part(key, value) for key, value in schema.items()} | _close(schema)


def _close(schema: Mapping[str, Any]) -> dict[str, Any]:
    is_named = isinstance(schema.get("properties"), Mapping) and bool(schema["properties"])
    return {"additionalProperties": False} if is_named and not _OPEN & schema.keys() else {}


def _closed_part(key: str, value: Any) -> Any:
    if key == "allOf":  # each part names only some of the properties
        return value
    if isinstance(value, Mapping):
        if key in ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas"):
            return {name: closed(part) if isinstance(part, Mapping) else part for name, part in value.items()}
        return closed(value)
    if isinstance(value, list):
        return [closed(part) if isinstance(part, Mapping) else part for part in value]
    return value
