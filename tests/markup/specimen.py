"""Writes an answer in a call format, so that a test can show the format as the text that its model writes."""

from __future__ import annotations

import json

from worker_gguf.markup.call_format import CallFormat

__all__ = ["specimen"]

_CALLS: tuple[tuple[str, dict[str, str]], ...] = (("f", {"a": "x", "b": "y"}), ("g", {}))


def specimen(form: CallFormat) -> str:
    """Return the reasoning R, the content C, and the calls of f with two arguments and of g without any, each in the
    marks of the format. Of a format with one call an answer, that of f."""
    reasoning = f"{form.reasoning_start}R{form.reasoning_ends[0]}" if form.reasoning_ends else ""
    calls = _CALLS if form.is_parallel else _CALLS[:1]
    written = form.separator.join(_call(form, *call) for call in calls)
    if form.is_array:
        written = f"[{written}]"
    content = f"{form.content_start}C{form.content_end}{form.before_calls}"
    return f"{reasoning}{content}{form.section_start}{written}{form.section_end}"


def _call(form: CallFormat, name: str, arguments: dict[str, str]) -> str:
    return f"{form.call_start}{_body(form, name, arguments)}{form.call_end}"


def _body(form: CallFormat, name: str, arguments: dict[str, str]) -> str:
    if form.syntax == "json_object":
        return _object(form, name, arguments)
    if form.syntax == "pythonic":
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    head = f"ID{form.name_start}{name}" if form.name_start else name
    head += f"{form.name_end}ID" if form.name_end else ""
    return f"{head}{form.arguments_start}{_arguments(form, arguments)}{form.arguments_end}"


def _arguments(form: CallFormat, arguments: dict[str, str]) -> str:
    if form.syntax == "gemma":
        return ",".join(f"{key}:{form.string_quote}{value}{form.string_quote}" for key, value in arguments.items())
    marks = form.values
    if marks is None:
        return json.dumps(arguments)
    return marks.value_separator.join(
        f"{marks.key_start}{key}"
        + (f"{marks.type_start}{'|'.join(marks.text_types)}" if marks.type_start else "")
        + f"{marks.key_end}{marks.value_start}{json.dumps(value) if marks.is_json else value}{marks.value_end}"
        + (f"{key}{marks.key_close}" if marks.key_close else "")
        for key, value in arguments.items()
    )


def _object(form: CallFormat, name: str, arguments: dict[str, str]) -> str:
    keys = form.json_call
    if keys.is_name_key:
        return json.dumps({name: arguments})
    function = {keys.name_key: name, keys.arguments_key: arguments}
    if keys.is_arguments_first:
        function = {keys.arguments_key: arguments, keys.name_key: name}
    call = {keys.function_key: function} if keys.function_key else function
    id_ = {keys.id_key: "ID"} if keys.id_key else {}
    constants = {key: json.loads(value) for key, value in keys.constants}
    return json.dumps({**id_, **constants, **call} if keys.is_id_first else {**constants, **call, **id_})
