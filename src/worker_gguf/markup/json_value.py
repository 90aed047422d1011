"""A JSON value that matches a JSON Schema, as an expression of Lark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from worker_gguf.engine.json_form import JSON_FORM
from worker_gguf.markup.lark import literal
from worker_gguf.markup.schema_keywords import DATA, DEFINITIONS, NAMED_SCHEMAS, Schema, target

__all__ = ["LINE_OR_BLANK", "json_value"]

LINE_OR_BLANK = r" |\n[ \t]{0,64}"
"""Regular expression of the white space that may stand between the parts of a JSON value: one space, or a line break
and an indentation. So values on one line and on many are allowed, and a model cannot write white space for ever."""


def json_value(schema: object, document: Schema, *, is_lenient: bool, is_spaced: bool = True) -> str:
    """Return an expression for a value that matches `schema`, which is a part of `document` or all of it.

    With `is_lenient`, keywords that llguidance does not know are left out. Where a value is an alternative to a
    terminal of the grammar, `is_spaced` must be false: llguidance would choose between them by the place in the grammar
    and not by the text, because white space is skipped in the one and not in the other.
    """
    options: dict[str, object] = {**JSON_FORM, "lenient": is_lenient}
    if is_spaced:
        options.update(
            whitespace_flexible=True, whitespace_pattern=LINE_OR_BLANK, item_separator=",", key_separator=":"
        )
    else:
        options.update(whitespace_flexible=False, item_separator=", ?", key_separator=": ?")
    if schema is False:
        schema = {"not": {}}
    parts = dict(schema) if isinstance(schema, Mapping) else {}
    if schema is not document:
        parts = _Moved(document).alone(parts)
    return "%json " + json.dumps({**parts, "x-guidance": options})


def json_text(value: object) -> str:
    """Return an expression for exactly this JSON value, on one line."""
    return literal(json.dumps(value, ensure_ascii=False))


class _Moved:
    """A part of a document with the definitions that it needs, and no others."""

    def __init__(self, document: Schema) -> None:
        self._document = document
        self._names: dict[str, str] = {}
        self._waiting: list[tuple[str, object]] = []

    def alone(self, schema: Schema) -> dict[str, Any]:
        """Return the part as a document. References in it lead to its own definitions."""
        result: dict[str, Any] = self._part(schema)
        definitions: dict[str, Any] = {}
        while self._waiting:
            name, definition = self._waiting.pop()
            definitions[name] = self._part(definition)
        return {**result, "$defs": definitions} if definitions else result

    def _part(self, schema: object) -> Any:
        match schema:
            case Mapping():
                return {key: self._value(key, value) for key, value in schema.items() if key not in DEFINITIONS}
            case list():
                return [self._part(one) for one in schema]
            case _:
                return schema

    def _value(self, keyword: str, value: object) -> Any:
        if keyword == "$ref" and isinstance(value, str):
            return self._reference(value)
        if keyword in NAMED_SCHEMAS and isinstance(value, Mapping):
            return {name: self._part(one) for name, one in value.items()}
        return value if keyword in DATA else self._part(value)

    def _reference(self, reference: str) -> str:
        if reference not in self._names:
            found = target(reference, self._document)
            if found is None:
                return reference
            self._names[reference] = f"d{len(self._names)}"
            self._waiting.append((self._names[reference], found))
        return f"#/$defs/{self._names[reference]}"
