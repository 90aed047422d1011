"""Turns the tools of Anthropic's API and the choice among them into those of the common form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker_gguf.protocol.validation import invalid, required

__all__ = ["read_tool_choice", "read_tools"]

_READ = ("type", "name", "description", "input_schema", "strict")
_CHOICES: Mapping[str, str] = {"auto": "auto", "any": "required", "none": "none"}


def read_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the tools of a request, each in its place, and the names of what has no effect in them.

    Tools of other types than the client's own are for Anthropic's servers, or for models that were trained with them.
    The parser of the common form leaves them out and names them. Raises InvalidRequest.
    """
    read = [_tool(f"tools.{place}", tool) for place, tool in enumerate(tools)]
    return [tool for tool, _ in read], [name for _, ignored in read for name in ignored]


def read_tool_choice(choice: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a choice among the tools as fields of the common form, and the names of what has no effect in it.

    Raises InvalidRequest.
    """
    kind = choice.get("type")
    if kind is None:
        raise required("tool_choice.type")
    if not isinstance(kind, str) or (kind != "tool" and kind not in _CHOICES):
        raise invalid("tool_choice.type", "must be 'auto', 'any', 'tool' or 'none'")
    fields: dict[str, Any] = {"tool_choice": _CHOICES.get(kind)}
    if kind == "tool":
        fields["tool_choice"] = {"type": "function", "name": choice.get("name")}
    is_single = choice.get("disable_parallel_tool_use")
    if is_single is not None and not isinstance(is_single, bool):
        raise invalid("tool_choice.disable_parallel_tool_use", "must be true or false")
    if is_single is not None:
        fields["parallel_tool_calls"] = not is_single
    known = {"type", "disable_parallel_tool_use", *(("name",) if kind == "tool" else ())}
    return fields, [f"tool_choice.{name}" for name in choice if name not in known and choice[name] is not None]


def _tool(param: str, tool: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    kind = tool.get("type")
    if kind is not None and not isinstance(kind, str):
        raise invalid(f"{param}.type", "must be a string")
    if kind == "function":
        raise invalid(f"{param}.type", "must be 'custom' or missing for a tool of the client, as in Anthropic's API")
    if kind not in (None, "custom"):
        return {"type": kind}, []
    for name in ("name", "input_schema"):
        if tool.get(name) is None:
            raise required(f"{param}.{name}")
    function = {"name": tool["name"], "description": tool.get("description"), "parameters": tool["input_schema"]}
    unread = [f"{param}.{name}" for name in tool if name not in _READ and tool[name] is not None]
    return {"type": "function", **function, "strict": tool.get("strict")}, unread
