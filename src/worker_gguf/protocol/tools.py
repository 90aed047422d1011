"""Reads the tools of a chat request: `tools`, `tool_choice`, `parallel_tool_calls` and the older `functions`.

Only functions can be called here. Tools of other types are left out, and their places are named as ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from worker_gguf.markup.tool import Tool, ToolUse
from worker_gguf.protocol.bodies import ChatBody
from worker_gguf.protocol.validation import invalid, required

if TYPE_CHECKING:
    from worker_gguf.protocol.schemas.tool_schemas import ToolSchemas

__all__ = ["MAX_TOOLS", "NO_TOOLS", "ToolRequest", "read_tools"]

# Beside empty properties, these say nothing else of the arguments.
_OF_NOTHING = frozenset({"$schema", "description", "properties", "required", "title", "type"})

MAX_TOOLS = 1024
# OpenAI's rule for the name of a function, with the length of Anthropic's: clients put the name of a server before it.
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_NAME_RULE = "must have 1 to 128 letters, digits, underscores and hyphens, and nothing else"
_CHOICES = "must be none, auto, required, or an object that names a function or lists allowed tools"

Mode = Literal["none", "auto", "required"]
# "any" is what Mistral's API calls "required".
_MODES: Mapping[str, Mode] = {"none": "none", "auto": "auto", "required": "required", "any": "required"}


class ToolRequest(Struct, frozen=True):
    """The tools of a request.

    `definitions` are all functions as a chat template gets them, and `offered` are the same functions as calls are held
    to them, without what cannot be guaranteed. `use` says which of them the answer may call; it is None if the answer
    may call none. With `is_legacy`, they were sent as `functions`, and the answer has a `function_call`.
    """

    definitions: tuple[Mapping[str, Any], ...] = ()
    offered: tuple[Tool, ...] = ()
    use: ToolUse | None = None
    is_legacy: bool = False


NO_TOOLS = ToolRequest()


class _Choice(Struct, frozen=True):
    """What `tool_choice` allows. `names` are the functions that may be called, or None for all of them."""

    mode: Mode = "auto"
    names: frozenset[str] | None = None
    ignored: tuple[str, ...] = ()


def read_tools(chat: ChatBody) -> tuple[ToolRequest, tuple[str, ...]]:
    """Return the tools of a request, and the names of what has no effect in it. Raises InvalidRequest."""
    if chat.functions or chat.function_call is not None:
        return _read_functions(chat)
    ignored: list[str] = []
    functions = _Functions()
    for place, tool in enumerate(_bounded("tools", chat.tools or ())):
        if tool.get("type", "function") != "function":
            ignored.append(f"tools.{place}")
            continue
        nested = tool.get("function")
        # The flat form is the one of OpenAI's Responses API.
        param, function = (f"tools.{place}", tool) if "name" in tool else (f"tools.{place}.function", nested)
        functions.add(param, function)
        if function is nested:  # further fields of a function are for the template
            unknown = sorted(name for name in tool.keys() - {"type", "function"} if tool[name] is not None)
            ignored += (f"tools.{place}.{name}" for name in unknown)
    offered = functions.offered
    if not offered and chat.parallel_tool_calls is not None:
        ignored.append("parallel_tool_calls")
    choice = _read_choice("tool_choice", chat.tool_choice, offered)
    use = _use(offered, choice, is_parallel=chat.parallel_tool_calls is not False)
    request = ToolRequest(tuple(functions.definitions), tuple(offered.values()), use)
    return request, (*ignored, *functions.ignored(), *choice.ignored)


def _read_functions(chat: ChatBody) -> tuple[ToolRequest, tuple[str, ...]]:
    """Read `functions` and `function_call`, which OpenAI replaced by tools. They allow one call in an answer."""
    if chat.tools or chat.tool_choice is not None:
        raise invalid("functions" if chat.functions else "function_call", "excludes tools and tool_choice")
    functions = _Functions()
    for place, function in enumerate(_bounded("functions", chat.functions or ())):
        functions.add(f"functions.{place}", function)
    offered = functions.offered
    wanted = chat.function_call
    if wanted in (None, "none", "auto"):
        choice = _Choice("none" if wanted == "none" else "auto")
    elif isinstance(wanted, dict):
        choice = _Choice("required", frozenset({_known("function_call.name", wanted.get("name"), offered)}))
    else:
        raise invalid("function_call", "must be none, auto, or an object with the name of a function")
    ignored = () if chat.parallel_tool_calls is None else ("parallel_tool_calls",)
    use = _use(offered, choice, is_parallel=False)
    request = ToolRequest(tuple(functions.definitions), tuple(offered.values()), use, is_legacy=True)
    return request, (*functions.ignored(), *ignored)


def _use(offered: Mapping[str, Tool], choice: _Choice, *, is_parallel: bool) -> ToolUse | None:
    if choice.mode == "none" or not offered:
        return None
    tools = tuple(tool for name, tool in offered.items() if choice.names is None or name in choice.names)
    return ToolUse(tools, is_required=choice.mode == "required", is_parallel=is_parallel) if tools else None


# --- the list of functions --------------------------------------------------------------------------------------------


def _bounded(param: str, items: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if len(items) > MAX_TOOLS:
        raise invalid(param, f"must have at most {MAX_TOOLS} items, not {len(items)}")
    return items


class _Functions:
    """The functions of a request, for a chat template and as values by their names."""

    def __init__(self) -> None:
        self.definitions: list[Mapping[str, Any]] = []
        self.offered: dict[str, Tool] = {}
        self._schemas: ToolSchemas | None = None

    def add(self, param: str, function: object) -> None:
        """Check one function and add it. Raises InvalidRequest."""
        if function is None:
            raise required(param)
        if not isinstance(function, dict):
            raise invalid(param, "must be an object")
        name = function.get("name")
        if name is None:
            raise required(f"{param}.name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise invalid(f"{param}.name", _NAME_RULE)
        if name in self.offered:
            raise invalid(f"{param}.name", "is the name of an earlier tool, too; each needs a name of its own")
        description = function.get("description")
        if description is not None and not isinstance(description, str):
            raise invalid(f"{param}.description", "must be a string")
        strict = function.get("strict")
        if strict is not None and not isinstance(strict, bool):
            raise invalid(f"{param}.strict", "must be true or false")
        parameters = _parameters(f"{param}.parameters", function.get("parameters"))
        if self._schemas is None:
            # Imported here, because a start should not wait for it.
            from worker_gguf.protocol.schemas.tool_schemas import ToolSchemas

            self._schemas = ToolSchemas()
        guaranteed = self._schemas.guaranteed(
            f"{param}.parameters", _closed_if_empty(parameters), is_strict=bool(strict)
        )
        self.offered[name] = Tool(name, guaranteed, description, bool(strict))
        self.definitions.append({"type": "function", "function": _definition(function, parameters)})

    def ignored(self) -> Iterable[str]:
        """Return the places of what the schemas have and calls are not held to."""
        return () if self._schemas is None else self._schemas.ignored()


def _parameters(param: str, parameters: object) -> Mapping[str, Any]:
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise invalid(param, "must be an object: the JSON Schema of the arguments")
    kind = parameters.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise invalid(f"{param}.type", "must be 'object', because the arguments of a call are one")
    return parameters


def _closed_if_empty(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a function without parameters, by a missing schema or by empty properties, as OpenAI has it.

    A schema that says only "object" takes any arguments.
    """
    is_empty = not parameters or (parameters.get("properties") == {} and not parameters.keys() - _OF_NOTHING)
    return {**parameters, "properties": {}, "additionalProperties": False} if is_empty else parameters


def _definition(function: Mapping[str, Any], parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a function for a chat template, without nulls and with the fields that templates read unasked.

    `type` belongs to the flat form of a tool, and `strict` speaks to the server: no model was trained with it. Where
    the schema of a parameter is true, it becomes an object, because templates look into it.
    """
    kept = {name: value for name, value in function.items() if value is not None and name not in ("type", "strict")}
    named = {"type": "object", "properties": {}, **parameters}
    if isinstance(properties := named["properties"], dict):
        named["properties"] = {name: {} if part is True else part for name, part in properties.items()}
    described = {} if "description" in kept else {"name": kept["name"], "description": ""}
    return {**described, **kept, "parameters": named}


# --- the choice among them --------------------------------------------------------------------------------------------


def _read_choice(param: str, choice: object, offered: Mapping[str, Tool]) -> _Choice:
    """Read `tool_choice` in the forms of OpenAI's two APIs, nested and flat."""
    if choice is None:
        return _Choice()
    if isinstance(choice, dict):
        kind = choice.get("type")
        if kind == "function":
            inside = choice.get("function")
            place, named = (f"{param}.function.name", inside) if isinstance(inside, dict) else (f"{param}.name", choice)
            return _Choice("required", frozenset({_known(place, named.get("name"), offered)}))
        if kind == "allowed_tools":
            return _read_allowed(param, choice, offered)
        if len(choice) > 1:
            raise invalid(f"{param}.type", "must be 'function' or 'allowed_tools'")
        choice = kind
    if not isinstance(choice, str) or choice not in _MODES:
        raise invalid(param, _CHOICES)
    return _Choice(_mode(param, choice, offered))


def _read_allowed(param: str, choice: Mapping[str, Any], offered: Mapping[str, Tool]) -> _Choice:
    """Read a list of allowed tools. Entries that are no function are left out."""
    inside = choice.get("allowed_tools")
    if isinstance(inside, dict):
        param, choice = f"{param}.allowed_tools", inside
    mode, entries = choice.get("mode", "auto"), choice.get("tools")
    if mode not in ("auto", "required"):
        raise invalid(f"{param}.mode", "must be auto or required")
    if entries is None:
        raise required(f"{param}.tools")
    if not isinstance(entries, list) or not entries:
        raise invalid(f"{param}.tools", "must be a list of tools that is not empty")
    names: set[str] = set()
    ignored: list[str] = []
    for place, entry in enumerate(entries):
        at = f"{param}.tools.{place}"
        if not isinstance(entry, dict):
            raise invalid(at, "must be an object that names a function")
        if entry.get("type", "function") != "function":
            ignored.append(at)
            continue
        nested = entry.get("function")
        named = nested if isinstance(nested, dict) else entry
        names.add(_known(f"{at}.function.name" if named is nested else f"{at}.name", named.get("name"), offered))
    if mode == "required" and not names:
        raise invalid(f"{param}.tools", "has no function, but a call is required")
    return _Choice(_mode(f"{param}.mode", mode, offered), frozenset(names), tuple(ignored))


def _mode(param: str, mode: str, offered: Mapping[str, Tool]) -> Mode:
    if _MODES[mode] == "required" and not offered:
        raise invalid(param, "a call is required, but tools has no function")
    return _MODES[mode]


def _known(param: str, name: object, offered: Mapping[str, Tool]) -> str:
    if name is None:
        raise required(param)
    if not isinstance(name, str) or name not in offered:
        raise invalid(param, "must be the name of a function in the request")
    return name
