"""What the keywords of JSON Schema hold, and where a reference leads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

__all__ = ["DATA", "DEFINITIONS", "NAMED_SCHEMAS", "Schema", "has_no_meaning", "parts", "target", "without_annotations"]

Schema = Mapping[str, Any]

DATA = frozenset({"const", "default", "enum", "examples"})
"""Their values are data and no schemas."""
DEFINITIONS = frozenset({"$defs", "definitions"})
NAMED_SCHEMAS = DEFINITIONS | {"dependentSchemas", "patternProperties", "properties"}
"""Their values are schemas by names, and a name may be that of a keyword."""
_ANNOTATIONS = frozenset(
    "$comment $schema contentEncoding contentMediaType default deprecated description examples readOnly title "
    "writeOnly x-guidance".split()
)


def target(reference: str, document: Schema) -> object:
    """Return the schema that a reference within the document leads to, or None."""
    if reference[:1] != "#" or reference[1:2] not in ("", "/"):
        return None
    found: object = document
    for step in reference.split("/")[1:]:
        key = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, list) and key.isascii() and key.isdigit() and len(key) < 9 and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found


def parts(keyword: str, value: object) -> Iterator[object]:
    """Yield the schemas that a keyword of a schema holds."""
    if keyword in DATA:
        return
    if keyword in NAMED_SCHEMAS and isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
    else:
        yield value


def without_annotations(schema: Any) -> Any:
    """Return the schema without the keywords that say nothing of what is valid, which may be most of its text."""
    match schema:
        case Mapping():
            return {
                keyword: {name: without_annotations(one) for name, one in value.items()}
                if keyword in NAMED_SCHEMAS and isinstance(value, Mapping)
                else value
                if keyword in DATA
                else without_annotations(value)
                for keyword, value in schema.items()
                if keyword not in _ANNOTATIONS
            }
        case list():
            return [without_annotations(one) for one in schema]
        case _:
            return schema


def has_no_meaning(keyword: str) -> bool:
    """Whether a keyword says nothing of what is valid, by itself."""
    return keyword in _ANNOTATIONS or keyword in DEFINITIONS or keyword in ("$anchor", "$id", "nullable")
