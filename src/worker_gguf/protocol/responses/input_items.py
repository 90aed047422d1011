"""Turns the items of an input into the messages of a conversation. An error names the place of a wrong item."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.images import image_of_url, image_part
from worker_gguf.protocol.validation import invalid, required

__all__ = ["messages_of"]

_ROLES = ("user", "system", "developer", "assistant")
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_NO_STATE = "This worker stores no responses and no items. Send the whole conversation in 'input'."

Item = Mapping[str, Any]
Message = dict[str, Any]


def messages_of(items: Sequence[Item]) -> tuple[list[Message], list[str]]:
    """Return the messages of a conversation, and the places of the items without effect.

    The calls, the reasoning and the text that a model wrote in one turn become one message. Raises InvalidRequest.
    """
    conversation = _Conversation()
    ignored: list[str] = []
    for place, item in enumerate(items):
        param = f"input.{place}"
        match item.get("type", "message"):
            case "message":
                conversation.say(_role(param, item), _content(f"{param}.content", item.get("content")))
            case "function_call":
                conversation.call(*_call(param, item, "arguments"))
            case "custom_tool_call":
                call_id, name, text = _call(param, item, "input")
                conversation.call(call_id, name, json.dumps({"input": text}, ensure_ascii=False))
            case "function_call_output" | "custom_tool_call_output":
                call_id = _text(f"{param}.call_id", item.get("call_id"))
                conversation.give_result(call_id, _output(f"{param}.output", item.get("output")))
            case "reasoning":
                conversation.think(_thought(param, item))
                if item.get("encrypted_content"):
                    ignored.append(f"{param}.encrypted_content")
            case "item_reference":
                raise UnsupportedParameter(_NO_STATE, param=f"{param}.type")
            case str():
                ignored.append(param)  # calls and results of tools that only OpenAI runs
            case _:
                raise invalid(f"{param}.type", "must be a string")
    return conversation.messages, ignored


class _Conversation:
    """Messages, of which the last one may still grow: what a model writes in one turn is several items."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._thought = ""

    def say(self, role: str, content: str | list[Message]) -> None:
        if role != "assistant":
            self._thought = ""  # that of a turn without an answer
            self.messages.append({"role": role, "content": content})
        elif (turn := self._turn()).get("content") is None and not turn.get("tool_calls"):
            turn["content"] = content
        else:
            self._new_turn()["content"] = content

    def call(self, call_id: str, name: str, arguments: str) -> None:
        function = {"name": name, "arguments": arguments}
        self._turn().setdefault("tool_calls", []).append({"id": call_id, "type": "function", "function": function})

    def give_result(self, call_id: str, content: str | list[Message]) -> None:
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def think(self, text: str) -> None:
        self._thought += text

    def _turn(self) -> Message:
        """Return the assistant's message of this turn."""
        if self._thought or not self.messages or self.messages[-1]["role"] != "assistant":
            return self._new_turn()
        return self.messages[-1]

    def _new_turn(self) -> Message:
        turn: Message = {"role": "assistant"}
        if self._thought:
            turn["reasoning_content"], self._thought = self._thought, ""
        self.messages.append(turn)
        return turn


def _role(param: str, item: Item) -> str:
    role = item.get("role")
    if role is None:
        raise required(f"{param}.role")
    if role not in _ROLES:
        raise invalid(f"{param}.role", f"must be one of {', '.join(_ROLES)}")
    return str(role)


def _content(param: str, content: object) -> str | list[Message]:
    if content is None:
        raise required(param)
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(param, "must be a text or a list of parts")
    return [_part(f"{param}.{number}", part) for number, part in enumerate(content)]


def _part(param: str, part: object) -> Message:
    """Return a part as in chat completions."""
    if not isinstance(part, dict):
        raise invalid(param, "must be an object")
    match part.get("type"):
        case kind if kind in _TEXTS:
            return {"type": "text", "text": _text(f"{param}.text", part.get("text"))}
        case "refusal":
            return {"type": "text", "text": _text(f"{param}.refusal", part.get("refusal"))}
        case "input_image":
            return _image(param, part)
        case "input_file" | "input_audio" as kind:
            raise UnsupportedParameter(f"Content of type '{kind}' is not supported. Send text.", param=f"{param}.type")
        case None:
            raise required(f"{param}.type")
        case _:
            raise invalid(f"{param}.type", "must be input_text, output_text, refusal or input_image")


def _image(param: str, part: Item) -> Message:
    if part.get("file_id") is not None:
        raise UnsupportedParameter("This worker stores no files. Send image_url.", param=f"{param}.file_id")
    unread = () if part.get("detail") in (None, "auto") else (f"{param}.detail",)
    return image_part(image_of_url(f"{param}.image_url", part.get("image_url"), unread))


def _call(param: str, item: Item, content: str) -> tuple[str, str, str]:
    call_id = _text(f"{param}.call_id", item.get("call_id"))
    return call_id, _text(f"{param}.name", item.get("name")), _text(f"{param}.{content}", item.get(content))


def _output(param: str, output: object) -> str | list[Message]:
    if output is None:
        raise required(param)
    return _content(param, output)


def _thought(param: str, item: Item) -> str:
    """Return the text of the reasoning: its content, or its summary if it has no content."""
    for name in ("content", "summary"):
        parts = item.get(name)
        if parts is not None and not isinstance(parts, list):
            raise invalid(f"{param}.{name}", "must be a list of parts")
        texts = (_part(f"{param}.{name}.{number}", part) for number, part in enumerate(parts or ()))
        if text := "".join(part.get("text", "") for part in texts):
            return text
    return ""


def _text(param: str, value: object) -> str:
    if value is None:
        raise required(param)
    if not isinstance(value, str):
        raise invalid(param, "must be a string")
    return value
