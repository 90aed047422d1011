"""Converts Pydantic's errors to an InvalidRequest that names the field. Its message has no text from the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from worker_gguf.errors import InvalidRequest

__all__ = ["invalid", "required", "validated"]

Body = TypeVar("Body", bound=BaseModel)

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "float_type": "a number",
    "int_type": "an integer",
    "list_type": "a list",
    "model_type": "an object",
    "string_type": "a string",
}
_NAMES: Mapping[type, str] = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "an integer",
    list: "a list",
    str: "a string",
    type(None): "null",
}


def validated(model: type[Body], fields: Mapping[str, Any], sent: Mapping[str, str]) -> Body:
    """Validate `fields` with `model`. Raises InvalidRequest. `sent` maps fields to the aliases that were sent."""
    known = {name: value for name, value in fields.items() if name in model.model_fields}
    try:
        return model.model_validate(known)
    except ValidationError as error:
        raise _first_error(error, known, sent) from None


def invalid(param: str, what: str) -> InvalidRequest:
    """Build an error such as "Invalid 'top_p': must be at most 1, not 3."."""
    return InvalidRequest(f"Invalid '{param}': {what}.", param=param)


def required(param: str) -> InvalidRequest:
    """Build the error for a missing field."""
    return InvalidRequest(f"'{param}' is required.", param=param)


def _first_error(error: ValidationError, fields: Mapping[str, Any], sent: Mapping[str, str]) -> InvalidRequest:
    details = error.errors(include_url=False, include_context=True)
    # A union reports an error for each member. The member with the deepest error is probably the intended one.
    field = details[0]["loc"][0]
    paths = [(_path(detail, fields), detail) for detail in details if detail["loc"][0] == field]
    deepest = max(len(path) for path, _ in paths)
    path = next(path for path, _ in paths if len(path) == deepest)
    same = [detail for other, detail in paths if other == path]
    name = ".".join(str(part) for part in (sent.get(str(path[0]), path[0]), *path[1:]))
    return required(name) if same[0]["type"] == "missing" else invalid(name, _what(same))


def _path(detail: ErrorDetails, fields: Mapping[str, Any]) -> tuple[int | str, ...]:
    """Return the parts of Pydantic's location that exist in the body. Other parts are names of union members."""
    path: list[int | str] = []
    at: Any = fields
    for part in detail["loc"]:
        leads_on = part in at if isinstance(at, dict) else isinstance(at, list) and isinstance(part, int)
        if leads_on:
            path.append(part)
            at = at[part]
    return (*path, detail["loc"][-1]) if detail["type"] == "missing" else tuple(path)


def _what(details: list[ErrorDetails]) -> str:
    types = [_EXPECTED[detail["type"]] for detail in details if detail["type"] in _EXPECTED]
    others = [detail for detail in details if detail["type"] not in _EXPECTED]
    # An error about a limit is more helpful than the other types that the value could have.
    if others:
        return _limit(others[0])
    return f"must be {' or '.join(dict.fromkeys(types))}, not {_shown(details[0]['input'], types)}"


def _shown(value: object, types: list[str]) -> str:
    """Return the kind of a value, or the number itself if an integer was expected."""
    if isinstance(value, float) and "an integer" in types:
        return str(value)
    return _NAMES.get(type(value), "that")


def _limit(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    value = detail["input"]
    # Do not include texts, because messages are logged, or numbers with many digits.
    shown = f", not {value}" if isinstance(value, int | float) and abs(value) < 10**18 else ""
    match detail["type"]:
        case "greater_than_equal":
            return f"must be at least {_number(context['ge'])}{shown}"
        case "greater_than":
            return f"must be more than {_number(context['gt'])}{shown}"
        case "less_than_equal":
            return f"must be at most {_number(context['le'])}{shown}"
        case "less_than":
            return f"must be less than {_number(context['lt'])}{shown}"
        case "too_short" | "string_too_short":
            return "must not be empty"
        case "too_long":
            return f"must have at most {context['max_length']} items"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
        case "literal_error":
            return f"must be one of {context['expected']}"
        case _:
            return detail["msg"][:1].lower() + detail["msg"][1:]


def _number(limit: float) -> float:
    return int(limit) if limit == int(limit) else limit
