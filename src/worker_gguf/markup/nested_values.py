"""Values that have values in them, each between marks with its key, as in <a><b>1</b></a>, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from worker_gguf.markup.call_format import TaggedValues
from worker_gguf.markup.offer import Parameters, as_json

__all__ = ["nested_as_json"]

# The key under which such templates write each item of an array.
_ITEM = "item"
_MAX_DEPTH = 32


def nested_as_json(text: str, values: TaggedValues, key: str, parameters: Parameters) -> str:
    """Return the JSON text of the value of a parameter that was written between marks.

    The schema decides about what text cannot tell: an array or an object, a number or a string of digits.
    """
    return _as_json(text, values, parameters.schema(key), parameters, 0)


def _as_json(text: str, values: TaggedValues, schema: object, parameters: Parameters, depth: int) -> str:
    entries = list(_entries(text, values)) if depth < _MAX_DEPTH else []
    types = parameters.types_of(schema)
    if not entries:
        return _empty(types) if not text.strip() else as_json(text, types)
    if {key for key, _ in entries} == {_ITEM} and "array" in types:
        inner = _inner(schema, "items")
        items = (_as_json(value, values, inner, parameters, depth + 1) for _, value in entries)
        return f"[{', '.join(items)}]"
    members = {
        key: _as_json(value, values, _inner(schema, "properties", key), parameters, depth + 1) for key, value in entries
    }
    return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in members.items()) + "}"


def _empty(types: frozenset[str]) -> str:
    if "string" in types:
        return '""'
    return "[]" if "array" in types else "{}" if "object" in types else '""'


def _entries(text: str, values: TaggedValues) -> Iterator[tuple[str, str]]:
    """Yield the keys and the texts of the values directly in this text."""
    at = text.find(values.key_start)
    while at >= 0:
        key_at = at + len(values.key_start)
        key_ends_at = text.find(values.key_end, key_at)
        key = text[key_at:key_ends_at]
        opening = text[at : key_ends_at + len(values.key_end)]
        closing = f"{values.value_end}{key}{values.key_close}"
        begins_at = key_ends_at + len(values.key_end)
        ends_at = _end(text, begins_at, opening, closing)
        if key_ends_at < 0 or ends_at < 0:
            return
        yield key, text[begins_at:ends_at]
        at = text.find(values.key_start, ends_at + len(closing))


def _end(text: str, at: int, opening: str, closing: str) -> int:
    """Return where the value ends whose opening mark ends at `at`; the same key may be inside it again."""
    depth = 1
    begin = at
    while True:
        end = text.find(closing, begin)
        if end < 0:
            return end
        depth += text.count(opening, at, end) - 1
        if depth == 0:
            return end
        at = begin = end + len(closing)


def _inner(schema: object, *path: str) -> object:
    for step in path:
        schema = schema.get(step, True) if isinstance(schema, Mapping) else True
    return schema
