"""Finds calls that are JSON objects, or whose arguments are one, in the text that a chat template wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from worker_gguf.markup.call_format import CallFormat, JsonCall
from worker_gguf.markup.conversations import FIRST, SECOND, Call, Conversations
from worker_gguf.markup.seen import COUNTER, ID_PATTERN, SeenCalls

__all__ = ["calls_as_objects", "calls_with_json"]

_decoder = json.JSONDecoder()


class _Object(NamedTuple):
    start: int
    end: int
    value: dict[str, Any]


def calls_as_objects(conversations: Conversations) -> SeenCalls | None:
    """Find calls that are JSON objects with the name and the arguments."""
    text = conversations.turn([FIRST]) or ""
    found = next(_objects_of(text, FIRST), None)
    if found is None:
        return None
    two = conversations.turn([FIRST, SECOND]) or ""
    one, other = next(_objects_of(two, FIRST), None), next(_objects_of(two, SECOND), None)
    call = _json_call(found.value, other.value if other else {})
    if call is None:
        return None
    inner = CallFormat(syntax="json_object", json_call=call)
    if one and other and one.end < other.start:
        return SeenCalls(inner, text, found.start, found.end, two[one.end : other.start], two[other.end :])
    return SeenCalls(inner, text, found.start, found.end, None, text[found.end :])


def calls_with_json(conversations: Conversations) -> SeenCalls | None:
    """Find calls whose name is a text and whose arguments are a JSON object."""
    text = conversations.turn([FIRST]) or ""
    if FIRST.name not in text and FIRST.id in text:
        # Kimi's templates write no name, because the id has it.
        conversations.has_names_in_ids = True
        text = conversations.turn([FIRST]) or ""
    two = conversations.turn([FIRST, SECOND]) or ""
    found, one, other = _header(text, FIRST), _header(two, FIRST), _header(two, SECOND)
    if found is None:
        return None
    inner = CallFormat(
        syntax="json",
        name_start=found.name_start,
        name_end=found.name_end,
        id_pattern=found.id_pattern,
        arguments_start=found.arguments_start,
    )
    if other and other.arguments_start != found.arguments_start and not found.id_pattern:
        # The texts after the names of two calls differ, so a counter stands there.
        digits = re.search(COUNTER, found.arguments_start)
        if digits is None:
            return None
        name_end, arguments_start = found.arguments_start[: digits.start()], found.arguments_start[digits.end() :]
        inner = CallFormat(syntax="json", name_end=name_end, id_pattern=COUNTER, arguments_start=arguments_start)
    if one and other and one.end < other.start:
        return SeenCalls(inner, text, found.start, found.end, two[one.end : other.start], two[other.end :])
    return SeenCalls(inner, text, found.start, found.end, None, text[found.end :])


class _Header(NamedTuple):
    start: int
    end: int
    arguments_start: str
    name_start: str = ""
    name_end: str = ""
    id_pattern: str = ""


def _header(text: str, call: Call) -> _Header | None:
    """Find what stands before the arguments of a call: its name, and its id before or after it."""
    arguments = next((found for found in _objects(text) if found.value == call.arguments), None)
    if arguments is None:
        return None
    name, id_ = text.rfind(call.name, 0, arguments.start), text.rfind(call.id, 0, arguments.start)
    after_id = id_ + len(call.id)
    if name < 0:
        return None
    after_name = name + len(call.name)
    if id_ < 0:
        return _Header(name, arguments.end, text[after_name : arguments.start])
    if id_ > name:
        return _Header(name, arguments.end, text[after_id : arguments.start], "", text[after_name:id_], ID_PATTERN)
    return _Header(id_, arguments.end, text[after_name : arguments.start], text[after_id:name], "", ID_PATTERN)


def _objects_of(text: str, call: Call) -> Iterator[_Object]:
    """Yield the JSON objects that have the name and the arguments of a call."""
    for found in _objects(text):
        inside = list(_inside(found.value))
        if call.arguments in inside and call.name in inside and found.value != call.arguments:
            yield found


def _objects(text: str) -> Iterator[_Object]:
    """Yield the outermost JSON objects of a text."""
    at = text.find("{")
    while at >= 0:
        try:
            value, end = _decoder.raw_decode(text, at)
        except ValueError:
            end = at + 1
        else:
            yield _Object(at, end, value)
        at = text.find("{", end)


def _inside(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _inside(item)


def _json_call(value: dict[str, Any], other: dict[str, Any]) -> JsonCall | None:
    """Find the keys of a call. `other` is another call, {} if an answer has only one."""
    if value == {FIRST.name: FIRST.arguments}:
        return JsonCall(name_key="", arguments_key="", is_name_key=True)
    function_key = next(
        (key for key, item in value.items() if isinstance(item, dict) and FIRST.name in item.values()), ""
    )
    function = value[function_key] if function_key else value
    name_key = next((key for key, item in function.items() if item == FIRST.name), None)
    arguments_key = next((key for key, item in function.items() if item == FIRST.arguments), None)
    if name_key is None or arguments_key is None:
        return None
    keys = list(function)
    others = {key: item for key, item in value.items() if key not in (name_key, arguments_key, function_key)}
    id_key = next((key for key, item in others.items() if item == FIRST.id or item != other.get(key, item)), "")
    order = list(value)
    is_counter = bool(id_key) and others[id_key] != FIRST.id
    return JsonCall(
        name_key=name_key,
        arguments_key=arguments_key,
        function_key=function_key,
        id_key=id_key,
        id_pattern=COUNTER if is_counter else ID_PATTERN,
        is_id_first=bool(id_key) and order.index(id_key) < order.index(function_key or name_key),
        constants=tuple((key, json.dumps(item)) for key, item in others.items() if key != id_key),
        is_arguments_first=keys.index(arguments_key) < keys.index(name_key),
    )
