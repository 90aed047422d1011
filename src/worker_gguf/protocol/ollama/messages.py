"""Brings the messages and tools of Ollama's API to the form of chat completions."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.validation import invalid

__all__ = ["chat_messages", "chat_tools", "check_images", "ends_with_a_beginning"]

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


def check_images(at: str, images: Sequence[str] | None) -> None:
    """Check the images of a message or a prompt. Raises InvalidRequest, also because images are not supported yet."""
    for number, image in enumerate(images or ()):
        param = f"{at}.{number}"
        try:
            base64.b64decode(image, validate=True)
        except (binascii.Error, ValueError):
            raise invalid(param, "must be an image in Base64") from None
        raise UnsupportedParameter("Images are not supported. Send text.", param=param)


def ends_with_a_beginning(messages: Sequence[Fields]) -> bool:
    """Return whether the last message is the beginning of an answer, which the model then continues."""
    last = messages[-1]
    return last["role"] == "assistant" and bool(last["content"]) and not last.get("tool_calls")


def _message(at: str, message: Fields) -> dict[str, Any]:
    given = {name: value for name, value in message.items() if value is not None}
    check_images(f"{at}.images", given.pop("images", None))
    converted = {_RENAMED.get(name, name): value for name, value in given.items()}
    converted |= {"role": given["role"].lower(), "content": given.get("content", "")}
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
