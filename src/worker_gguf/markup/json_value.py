"""A JSON value that matches a JSON Schema, as an expression of Lark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from worker_gguf.engine.json_form import JSON_FORM
from worker_gguf.markup.lark import literal

__all__ = ["LINE_OR_BLANK", "json_value"]

LINE_OR_BLANK = r" |\n[ \t]{0,64}"
"""Regular expression of the white space that may stand between the parts of a JSON value: one space, or a line break
and an indentation. So values on one line and on many are allowed, and a model cannot write white space for ever."""

_DOCUMENT = "document"
# The values of these keywords are data, in which "$ref" has no meaning.
_DATA = frozenset({"const", "default", "enum", "examples"})


def json_value(schema: object, document: Mapping[str, Any], *, is_lenient: bool, is_spaced: bool = True) -> str:
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
    if schema is not document and _refers(parts):
        parts = {**_moved(parts), "$defs": {_DOCUMENT: _moved(document)}}
    return "%json " + json.dumps({**parts, "x-guidance": options})


def json_text(value: object) -> str:
    """Return an expression for exactly this JSON value, on one line."""
    return literal(json.dumps(value, ensure_ascii=False))


def _refers(schema: object) -> bool:
    match schema:
        case Mapping():
            return isinstance(schema.get("$ref"), str) or any(map(_refers, schema.values()))
        case list():
            return any(map(_refers, schema))
        case _:
            return False


def _moved(schema: object) -> Any:
    """Return the schema with its references changed so that they hold where the document is a definition."""
    match schema:
        case Mapping():
            return {
                key: f"#/$defs/{_DOCUMENT}{value[1:]}"
                if key == "$ref" and isinstance(value, str) and value.startswith("#")
                else value
                if key in _DATA
                else _moved(value)
                for key, value in schema.items()
            }
        case list():
            return [_moved(one) for one in schema]
        case _:
            return schema
