"""Brings the messages and tools of Ollama's API to the form of chat completions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from worker_gguf.protocol.images import image_of_base64, image_part
from worker_gguf.protocol.validation import invalid

__all__ = ["chat_messages", "chat_tools", "ends_with_a_beginning", "with_pictures"]

_RENAMED = {"thinking": "reasoning_content", "tool_name": "name"}

Fields = Mapping[str, Any]


def chat_messages(messages: Sequence[Fields]) -> list[dict[str, Any]]:
    """Return the messages as they are in a chat completion. Their types are checked. Raises InvalidRequest."""
    return [_message(f"messages.{place}", message) for place, message in enumerate(messages)]


def chat_tools(tools: Sequence[Fields]) -> list[dict[str, Any]]:
    """Return the tools as they are in a chat completion, where the type is required."""
    return [
        {"type": "function", **{name: value for name, value in tool.items() if value is not None}} for tool in tools
    ]


def with_pictures(at: str, images: Sequence[str] | None, text: str) -> str | list[dict[str, Any]]:
    """Return the content of a message with images, which are in Base64. As in Ollama, they come before the text."""
    if not images:
        return text
    shown = [image_part(image_of_base64(f"{at}.{number}", image)) for number, image in enumerate(images)]
    return [*shown, {"type": "text", "text": text}]


def ends_with_a_beginning(messages: Sequence[Fields]) -> bool:
    """Return whether the last message is the beginning of an answer, which the model then continues."""
    last = messages[-1]
    return last["role"] == "assistant" and bool(last["content"]) and not last.get("tool_calls")


def _message(at: str, message: Fields) -> dict[str, Any]:
    given = {name: value for name, value in message.items() if value is not None}
    images = given.pop("images", None)
    converted = {_RENAMED.get(name, name): value for name, value in given.items()}
    content = with_pictures(f"{at}.images", images, given.get("content", ""))
    converted |= {"role": given["role"].lower(), "content": content}
    if calls := given.get("tool_calls"):
        converted["tool_calls"] = [_call(f"{at}.tool_calls.{number}", call) for number, call in enumerate(calls)]
    return converted


def _call(at: str, call: Fields) -> dict[str, Any]:
    """Return a call whose arguments are a JSON text."""
    function = call.get("function")
    if not isinstance(function, dict):
        raise invalid(f"{at}.function", "must be an object")
    arguments = function.get("arguments")
    if not isinstance(arguments, dict | str | None):
        raise invalid(f"{at}.function.arguments", "must be an object")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    named = {name: value for name, value in function.items() if name != "index"}
    return {**call, "type": "function", "function": {**named, "arguments": text}}
