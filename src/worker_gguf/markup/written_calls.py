"""Writes calls as a model would, for the instructions that show a model how to call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from worker_gguf.markup.call_format import CallFormat, TaggedValues

__all__ = ["written_calls"]

_DIGITS = "[0-9]+"


def written_calls(form: CallFormat, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return these calls, each a name and its arguments, in the marks of a format without channels."""
    written = form.separator.join(
        f"{form.call_start}{_body(form, name, arguments, number)}{form.call_end}"
        for number, (name, arguments) in enumerate(calls)
    )
    return f"{form.section_start}{f'[{written}]' if form.is_array else written}{form.section_end}"


def _body(form: CallFormat, name: str, arguments: Mapping[str, Any], number: int) -> str:
    if form.syntax == "json_object":
        return _json(_object(form, name, arguments, number))
    if form.syntax == "pythonic":
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    id_ = _id(form.id_pattern, name, number)
    before = f"{id_}{form.name_start}" if form.name_start else ""
    after = f"{form.name_end}{id_}" if form.name_end else ""
    return f"{before}{name}{after}{form.arguments_start}{_arguments(form, arguments)}{form.arguments_end}"


def _arguments(form: CallFormat, arguments: Mapping[str, Any]) -> str:
    if form.syntax == "gemma":
        return ",".join(f"{key}:{_bare(value, form.string_quote)}" for key, value in arguments.items())
    if form.values is None:
        return _json(arguments)
    values = form.values
    return values.value_separator.join(_value(values, key, value) for key, value in arguments.items())


def _value(marks: TaggedValues, key: str, value: Any) -> str:
    if isinstance(value, str) and not marks.is_json:
        word, text = next(iter(marks.text_types), ""), value
    else:
        others = (word for word in marks.types if word not in marks.text_types)
        word, text = next(others, ""), _json(value)
    kind = f"{marks.type_start}{word}" if marks.type_start else ""
    close = f"{key}{marks.key_close}" if marks.key_close else ""
    return f"{marks.key_start}{key}{kind}{marks.key_end}{marks.value_start}{text}{marks.value_end}{close}"


def _bare(value: Any, quote: str) -> str:
    """Write a value with bare keys, and with texts between the quotes of the format."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_bare(item, quote)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_bare(item, quote) for item in value) + "]"
    return f"{quote}{value}{quote}" if isinstance(value, str) else _json(value)


def _object(form: CallFormat, name: str, arguments: Mapping[str, Any], number: int) -> dict[str, Any]:
    keys = form.json_call
    if keys.is_name_key:
        return {name: arguments}
    function = {keys.name_key: name, keys.arguments_key: arguments}
    if keys.is_arguments_first:
        function = dict(reversed(function.items()))
    call = {keys.function_key: function} if keys.function_key else function
    constants = {key: json.loads(value) for key, value in keys.constants}
    id_ = {keys.id_key: _id(keys.id_pattern, name, number)} if keys.id_key else {}
    return {**id_, **constants, **call} if keys.is_id_first else {**constants, **call, **id_}


def _id(pattern: str, name: str, number: int) -> str:
    """Return an id that matches the pattern: a number, nine letters and digits, or else the name."""
    if pattern == _DIGITS:
        return str(number)
    return f"call{number:05}" if "{9}" in pattern else name


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
