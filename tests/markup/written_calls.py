"""Writes calls as the template of a format does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from worker_gguf.markup.call_format import CallFormat, TaggedValues

__all__ = ["write_calls"]

Call = tuple[str, Mapping[str, Any]]


def write_calls(form: CallFormat, calls: Sequence[Call]) -> str:
    """Return an answer that is these calls and nothing else."""
    if form.channels is not None:
        ((name, arguments),) = calls
        channels = form.channels
        header = f"{channels.channel}{channels.call_channel}{channels.recipient}{name}{channels.content_type}"
        return f"{header}{channels.message}{_json(arguments)}"
    written = [f"{form.call_start}{_body(form, number, *call)}{form.call_end}" for number, call in enumerate(calls)]
    text = form.separator.join(written)
    return (
        f"{form.section_start}{f'[{text}]' if form.is_array else text}{form.section_end if form.section_start else ''}"
    )


def _body(form: CallFormat, number: int, name: str, arguments: Mapping[str, Any]) -> str:
    pattern = form.json_call.id_pattern if form.syntax == "json_object" else form.id_pattern
    call_id = f"{number:09}" if pattern.endswith("{9}") else str(number)
    head = f"{name}{form.name_end}{call_id if form.name_end else ''}{form.arguments_start}"
    match form.syntax:
        case "json_object":
            return _json_object(form, call_id, name, arguments)
        case "pythonic":
            return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        case "gemma":
            members = ",".join(f"{key}:{_gemma(form, value)}" for key, value in arguments.items())
            return f"{head}{members}{form.arguments_end}"
        case "tagged":
            assert form.values is not None
            values = form.values
            return head + form.values.value_separator.join(_tagged(values, *item) for item in arguments.items())
        case _:
            return head + _json(arguments)


def _json_object(form: CallFormat, call_id: str, name: str, arguments: Mapping[str, Any]) -> str:
    keys = form.json_call
    own_id = {keys.id_key: call_id} if keys.id_key else {}
    return _json({**(own_id if keys.is_id_first else {}), keys.name_key: name, keys.arguments_key: arguments, **own_id})


def _tagged(values: TaggedValues, key: str, value: object) -> str:
    kind = ""
    if values.type_start:
        names = {str: "string", bool: "boolean", type(None): "null", list: "array", dict: "object"}
        word = names.get(type(value), "number")
        if "true" in values.types:
            word = "true" if isinstance(value, str) else "false"
        kind = f"{values.type_start}{word}"
    text = value if isinstance(value, str) else _json(value)
    return f"{values.key_start}{key}{kind}{values.key_end}{values.value_start}{text}{values.value_end}"


def _gemma(form: CallFormat, value: object) -> str:
    match value:
        case str():
            return f"{form.string_quote}{value}{form.string_quote}"
        case list():
            return f"[{','.join(_gemma(form, one) for one in value)}]"
        case dict():
            return "{" + ",".join(f"{key}:{_gemma(form, one)}" for key, one in value.items()) + "}"
        case _:
            return _json(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
