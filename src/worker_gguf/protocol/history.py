"""Converts earlier calls and results in a conversation to the form that chat templates know: tool calls with ids.

Clients echo what a model wrote, so nothing here is an error that the client could not avoid: an id that is missing is
made up, and the older `function_call` becomes a tool call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.images import image_in
from worker_gguf.protocol.validation import invalid

__all__ = ["OTHER_KINDS", "check_calls", "with_calls", "without_images"]

# Kinds of content parts that are no text.
OTHER_KINDS = frozenset(
    {"image", "image_url", "input_image", "input_audio", "audio", "audio_url", "video", "video_url", "input_video"}
    | {"file", "input_file"}
)

_MAX_KIND = 64

Message = Mapping[str, Any]


def check_calls(param: str, message: Message) -> None:
    """Check the form of the calls of a message. Their arguments may be any text. Raises InvalidRequest."""
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise invalid(f"{param}.tool_calls", "must be a list of calls")
    for number, call in enumerate(calls or ()):
        at = f"{param}.tool_calls.{number}"
        if not isinstance(call, dict):
            raise invalid(at, "must be an object")
        if call.get("function") is None and call.get("type", "function") != "function":
            raise UnsupportedParameter("Only calls of functions are supported in a conversation.", param=at)
        _check_function(f"{at}.function", call.get("function"))
    _check_function(f"{param}.function_call", message.get("function_call"))


def with_calls(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with all calls as tool calls, each with an id, and all results as tool messages.

    A result without the id of its call gets that of the next call without a result, and one without a name gets the
    name of its call. Each part of a result without a text or an image becomes a text that says so.
    """
    converted: list[Message] = []
    open_calls: dict[str, str] = {}
    for place, message in enumerate(messages):
        match message.get("role"):
            case "assistant":
                message = _assistant(message, place)
                open_calls |= _named(message)
            case "tool" | "function":
                message = _result(message, open_calls)
        converted.append(message)
    return tuple(converted)


def without_images(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with a text that says so in the place of each image, for a model that does not see."""
    return tuple(
        {**message, "content": [_without_image(part) for part in content]}
        if isinstance(content := message.get("content"), list)
        else message
        for message in messages
    )


def _check_function(param: str, function: object) -> None:
    if function is None:
        return
    if not isinstance(function, dict):
        raise invalid(param, "must be an object")
    if not isinstance(function.get("name", ""), str):
        raise invalid(f"{param}.name", "must be a string")


def _assistant(message: Message, place: int) -> Message:
    calls = message.get("tool_calls") or []
    if not calls and (function := message.get("function_call")):
        calls = [{"type": "function", "function": function}]
    if not calls:
        return {name: value for name, value in message.items() if name != "function_call"}
    # Nine letters and digits, because some templates refuse any other id.
    with_ids = [call if call.get("id") else {**call, "id": f"call{place:03d}{n:02d}"} for n, call in enumerate(calls)]
    rest = {name: value for name, value in message.items() if name not in ("function_call", "tool_calls")}
    return {**rest, "tool_calls": with_ids}


def _named(message: Message) -> dict[str, str]:
    """Return the names of the functions that a message calls, by the ids of the calls."""
    calls = message.get("tool_calls") or []
    return {str(call["id"]): (call.get("function") or {}).get("name") or "" for call in calls}


def _result(message: Message, open_calls: dict[str, str]) -> Message:
    """Complete a result, and remove its call from `open_calls`."""
    name = message.get("name")
    call_id = message.get("tool_call_id")
    if call_id is None:
        same = (known for known, called in open_calls.items() if name in (None, called))
        call_id = next(same, next(iter(open_calls), None))
    called = open_calls.pop(str(call_id), None)
    result = {**message, "role": "tool"}
    if call_id is not None:
        result["tool_call_id"] = call_id
    if name is None and called:
        result["name"] = called
    if isinstance(content := message.get("content"), list):
        result["content"] = [part if image_in(part) is not None else _text_part(part) for part in content]
    return result


def _text_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = str(part.get("type", "unknown"))
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str) or kind in OTHER_KINDS:
        text = _not_shown(kind)
    return {**part, "text": text} if kind == "text" else {"type": "text", "text": text}


def _without_image(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return part if image_in(part) is None else {"type": "text", "text": _not_shown("image")}


def _not_shown(kind: str) -> str:
    return f"[The tool returned content of type {kind[:_MAX_KIND]}, which cannot be shown here.]"
