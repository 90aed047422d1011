"""Calls without any mark beside a JSON answer: both begin with a brace, so one schema must describe both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from worker_gguf.engine.request import Constraint
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.closed_schema import closed
from worker_gguf.markup.schema_keywords import DATA, NAMED_SCHEMAS
from worker_gguf.markup.tool import Tool, ToolUse

__all__ = ["calls_or_json", "has_bare_calls"]


def has_bare_calls(form: CallFormat) -> bool:
    """Return whether a call is a JSON object that nothing else tells from an answer in JSON."""
    return form.syntax == "json_object" and not (form.section_start or form.call_start or form.is_array)


def calls_or_json(form: CallFormat, use: ToolUse, text: Constraint) -> Constraint | None:
    """Return the constraint of an answer that is one call or matches the JSON Schema of `text`.

    A grammar with both as alternatives would choose between them by their first key. Returns None if the calls have
    another form than a name and arguments.
    """
    keys = form.json_call
    if keys.function_key or keys.is_name_key or not (keys.name_key and keys.arguments_key):
        return None
    parts = {f"tool_{number}": _call(form, tool, f"#/$defs/tool_{number}") for number, tool in enumerate(use.tools)}
    answer = json.loads(text.grammar)
    parts["answer"] = _moved(answer, "#/$defs/answer") if isinstance(answer, dict) else {}
    schema = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in parts], "$defs": parts}
    return Constraint("json_schema", json.dumps(schema), is_lenient=text.is_lenient, param=text.param)


def _call(form: CallFormat, tool: Tool, place: str) -> dict[str, Any]:
    keys = form.json_call
    arguments = _moved({**closed(tool.parameters), "type": "object"}, f"{place}/properties/{keys.arguments_key}")
    properties = {keys.name_key: {"const": tool.name}, keys.arguments_key: arguments}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _moved(value: Any, place: str, *, are_names: bool = False) -> Any:
    """Return a schema whose references hold where the schema stands at `place` of another one."""
    if isinstance(value, list):
        return [_moved(part, place) for part in value]
    if not isinstance(value, Mapping):
        return value
    moved: dict[str, Any] = {}
    for key, part in value.items():
        if not are_names and key == "$ref" and isinstance(part, str) and part.startswith("#"):
            moved[key] = place + part[1:]
        elif not are_names and key in DATA:
            moved[key] = part
        else:
            moved[key] = _moved(part, place, are_names=not are_names and key in NAMED_SCHEMAS)
    return moved
