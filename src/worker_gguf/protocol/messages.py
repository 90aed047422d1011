"""Checks the content of the messages of a conversation. The chat template converts them later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.bodies import Message
from worker_gguf.protocol.history import OTHER_KINDS, check_calls
from worker_gguf.protocol.images import image_in
from worker_gguf.protocol.validation import invalid, required

__all__ = ["check_messages"]

# A message of the assistant may have one of these instead of content.
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "reasoning_content", "reasoning", "thinking")


def check_messages(messages: Sequence[Message], raw: Sequence[Mapping[str, Any]]) -> None:
    """Check what the types of `Message` cannot express. `raw` are the same messages as they were sent, with images.

    Raises InvalidRequest.
    """
    for place, (message, fields) in enumerate(zip(messages, raw, strict=True)):
        param = f"messages.{place}.content"
        check_calls(f"messages.{place}", fields)
        if fields.get("audio") is not None:
            raise UnsupportedParameter("Audio in messages is not supported.", param=f"messages.{place}.audio")
        if message.content is None and not _may_lack_content(message, fields):
            raise required(param)
        # history.py replaces parts of a result that are no text, because a client cannot choose what a tool returns.
        if isinstance(message.content, list) and message.role not in ("tool", "function"):
            for number, part in enumerate(fields["content"]):
                _check_part(f"{param}.{number}", part)


def _may_lack_content(message: Message, fields: Mapping[str, Any]) -> bool:
    if message.role in ("tool", "function"):  # a tool that returned nothing
        return True
    return message.role == "assistant" and any(fields.get(name) for name in _INSTEAD_OF_CONTENT)


def _check_part(param: str, part: Mapping[str, Any]) -> None:
    kind = part.get("type")
    if image_in(part) is not None:
        return
    if isinstance(kind, str) and kind in OTHER_KINDS:
        raise UnsupportedParameter(
            f"Content of type '{kind}' is not supported. Send text or image_url.", param=f"{param}.type"
        )
    if kind not in ("text", "refusal"):
        raise invalid(f"{param}.type", "must be 'text' or 'image_url'")
    if not isinstance(part.get(kind), str):
        raise invalid(f"{param}.{kind}", "must be a string")
