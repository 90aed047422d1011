"""Describes settings: the expected values, type and default of a field, for error messages and docs/settings.md."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo

__all__ = ["bounds_text", "choices", "default_text", "expected", "is_secret", "type_text"]

_NOUNS = {"int": "a whole number", "float": "a number", "bool": "true or false", "path": "a path"}
_SIGNS = ((Ge, "ge", ">="), (Gt, "gt", ">"), (Le, "le", "<="), (Lt, "lt", "<"))


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words that a field accepts, or an empty tuple if it accepts other values."""
    kind = _without_none(field.annotation)
    return get_args(kind) if get_origin(kind) is Literal else ()


def is_secret(field: FieldInfo) -> bool:
    """Return whether the value of a field must not be shown."""
    return SecretStr.__name__ in repr(field.annotation)


def type_text(field: FieldInfo) -> str:
    """Return the type of a field as one word."""
    kind = _without_none(field.annotation)
    if get_origin(kind) is Literal:
        return "choice"
    if get_origin(kind) is tuple:
        return "list"
    if get_origin(kind) is not None:
        kind = get_args(kind)[0]
    name: str = kind.__name__
    return {"str": "text", "SecretStr": "secret", "Path": "path"}.get(name, name)


def bounds_text(field: FieldInfo) -> str:
    """Return the bounds of a field, for example `>= 1, <= 256`, or its choices, or an empty text."""
    if words := choices(field):
        return ", ".join(words)
    return ", ".join(
        f"{sign} {getattr(bound, attribute)}"
        for bound in _bounds(field)
        for cls, attribute, sign in _SIGNS
        if isinstance(bound, cls)
    )


def default_text(field: FieldInfo) -> str:
    """Return the default of a field as it would be written in the environment."""
    if isinstance(field.json_schema_extra, dict) and "default_text" in field.json_schema_extra:
        return str(field.json_schema_extra["default_text"])
    return "" if field.default in (None, ()) else _as_variable(field.default)


def expected(field: FieldInfo) -> str:
    """Return the expected values of a field, as the end of a sentence."""
    if words := choices(field):
        return f"one of {', '.join(words)}"
    if isinstance(field.json_schema_extra, dict) and "expected" in field.json_schema_extra:
        return str(field.json_schema_extra["expected"])
    noun = _NOUNS.get(type_text(field), "text")
    bounds = bounds_text(field)
    return f"{noun} {bounds}" if bounds else noun


def _as_variable(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ";".join(value)
    return str(value)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(kind for kind in get_args(annotation) if kind is not type(None))
    return annotation


def _bounds(field: FieldInfo) -> Iterator[object]:
    """Yield the bounds of a field, which may be on the field or inside its annotation."""
    yield from field.metadata
    kind = _without_none(field.annotation)
    for extra in getattr(kind, "__metadata__", ()):
        yield from extra.metadata if isinstance(extra, FieldInfo) else (extra,)
