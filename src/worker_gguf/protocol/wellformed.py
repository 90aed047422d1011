"""Parses bodies and checks that they are well-formed: finite numbers, limited depth and size, encodable texts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any

from worker_gguf.errors import InvalidRequest

__all__ = ["MAX_DEPTH", "MAX_FIELDS", "MAX_VALUES", "is_encodable", "read_json", "read_object"]

# Much more than any tool schema needs, and much less than Python's stack or a template's tojson can process.
MAX_DEPTH = 64
# The values in one field, without lists of integers (tokens of a prompt). Checking so many takes no noticeable time.
MAX_VALUES = 200_000
MAX_FIELDS = 1000
MAX_NAME = 64


def read_json(raw: bytes, what: str = "body") -> object:
    """Parse a body, or `what` else it is. Raises InvalidRequest, also for NaN and Infinity, which are not JSON."""
    refuse, unique = partial(_refuse_constant, what), partial(_unique, what)
    try:
        # JSON over HTTP is UTF-8 (RFC 8259, 8.1), but json.loads would also accept UTF-16 and UTF-32.
        value: object = json.loads(raw.decode("utf-8"), parse_constant=refuse, object_pairs_hook=unique)
    except UnicodeDecodeError:
        raise InvalidRequest(f"The {what} is not UTF-8. Send JSON in UTF-8.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if b"\n" in raw else f"column {error.colno}"
        raise InvalidRequest(f"The {what} is not JSON: {error.msg} at {where}.") from None
    except InvalidRequest:
        raise
    except RecursionError:
        raise InvalidRequest(f"The {what} is nested too deeply.") from None
    except ValueError:
        # Python refuses to convert integers with more than 4300 digits.
        raise InvalidRequest(f"The {what} holds a number that is out of bounds.") from None
    return value


def read_object(body: object) -> dict[str, Any]:
    """Check a parsed body and return its fields without those that are null. Raises InvalidRequest."""
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    if len(body) > MAX_FIELDS:
        raise InvalidRequest(f"The body has {len(body)} fields, more than {MAX_FIELDS}.")
    for name, value in body.items():
        if not isinstance(name, str) or not is_encodable(name):
            raise InvalidRequest("The body holds a name that is not valid text.")
        _check(name[:MAX_NAME], value)
    return {name: value for name, value in body.items() if value is not None}


def _unique(what: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object. Raises InvalidRequest if a name occurs twice, because one of its values would be lost."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise InvalidRequest(f"The {what} gives a name twice in one object. Give each name once.")
    return fields


def _refuse_constant(what: str, constant: str) -> object:
    raise InvalidRequest(f"The {what} holds {constant}, which is not JSON.")


def _check(param: str, value: object) -> None:
    stack: list[tuple[object, int]] = [(value, 1)]
    n_values = 0
    while stack:
        item, depth = stack.pop()
        if not isinstance(item, dict | list):
            _check_scalar(param, item)
        # A prompt of a million token ids must not need a million iterations of this loop.
        elif isinstance(item, dict) or set(map(type, item)) != {int}:
            n_values += len(item)
            if depth >= MAX_DEPTH:
                raise InvalidRequest(f"Invalid '{param}': nested more than {MAX_DEPTH} deep.", param=param)
            if n_values > MAX_VALUES:
                raise InvalidRequest(f"Invalid '{param}': holds more than {MAX_VALUES} values.", param=param)
            stack.extend((part, depth + 1) for part in _parts(item))


def _parts(item: dict[Any, Any] | list[Any]) -> Iterator[object]:
    return chain(item.keys(), item.values()) if isinstance(item, dict) else iter(item)


def _check_scalar(param: str, value: object) -> None:
    if isinstance(value, str) and not is_encodable(value):
        message = (
            f"Invalid '{param}': holds an unpaired surrogate, which is not a character and cannot be written as UTF-8."
        )
        raise InvalidRequest(message, param=param)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"Invalid '{param}': holds a number that is not finite.", param=param)


def is_encodable(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8. Escapes in JSON can produce unpaired surrogates, which cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
