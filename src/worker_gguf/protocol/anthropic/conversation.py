"""Turns the messages of Anthropic's API into those of the common form: results are messages, and calls are fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from worker_gguf.protocol.anthropic.blocks import Block, Blocks, Part, blocks_of, field, text_part
from worker_gguf.protocol.validation import invalid

__all__ = ["Conversation", "read_conversation"]

# Blocks of tools that run on Anthropic's servers. Models here were not trained with them, and have none of these tools.
_OF_SERVERS = ("server_tool_use", "container_upload", "compaction")
_RESULT_OF_SERVERS = "_tool_result"


class Conversation:
    """The messages so far, and whether the answer continues the last one.

    Neighbouring messages of one role become one message, as in Anthropic's API.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.messages: list[dict[str, Any]] = []
        self._blocks = blocks

    def add_system(self, text: str) -> None:
        if text:
            self.messages.append({"role": "system", "content": text})

    def add_user(self, param: str, content: str | Sequence[Block]) -> None:
        """Add a message of the user. A result of a tool in it becomes a message of its own."""
        if isinstance(content, str):
            self._add({"role": "user", "content": content})
            return
        parts: list[Part] = []
        for at, block in blocks_of(param, content):
            if block.get("type") != "tool_result":
                parts.append(self._blocks.shown(at, block))
                continue
            self._add_user_parts(parts)
            parts = []
            self._blocks.kind(at, block)
            call_id = field(at, block, "tool_use_id", str)
            result = self._blocks.result(at, block)
            self.messages.append({"role": "tool", "tool_call_id": call_id, "content": result})
        self._add_user_parts(parts)

    def add_assistant(self, param: str, content: str | Sequence[Block]) -> None:
        if isinstance(content, str):
            self._add({"role": "assistant", "content": content})
            return
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for at, block in blocks_of(param, content):
            match kind := self._blocks.kind(at, block):
                case "text":
                    texts.append(field(at, block, "text", str))
                case "thinking":
                    thoughts.append(field(at, block, "thinking", str))
                case "tool_use":
                    calls.append(_call(at, block))
                case "redacted_thinking":
                    self._blocks.leave_out(at)
                case _ if kind in _OF_SERVERS or kind.endswith(_RESULT_OF_SERVERS):
                    self._blocks.leave_out(at)
                case _:
                    raise invalid(f"{at}.type", "must be 'text', 'thinking' or 'tool_use' here")
        message: dict[str, Any] = {"role": "assistant", "content": _content(texts)}
        if any(thoughts):
            message["reasoning_content"] = "\n".join(filter(None, thoughts))
        if calls:
            message["tool_calls"] = calls
        self._add(message)

    def _add_user_parts(self, parts: list[Part]) -> None:
        if parts:
            texts = [part["text"] for part in parts if part["type"] == "text"]
            self._add({"role": "user", "content": _content(texts) if len(texts) == len(parts) else parts})

    def _add(self, message: dict[str, Any]) -> None:
        last = self.messages[-1] if self.messages else {}
        if last.get("role") == message["role"]:
            self.messages[-1] = _merged(last, message)
        else:
            self.messages.append(message)


def read_conversation(fields: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the messages of a request in the common form, after its system prompt. Raises InvalidRequest.

    Also returns the places of what has no effect in them.
    """
    blocks = Blocks()
    conversation = Conversation(blocks)
    if fields.get("system") is not None:
        conversation.add_system(blocks.system(fields["system"]))
    for place, turn in enumerate(fields["messages"]):
        param, content = f"messages.{place}.content", turn["content"]
        match turn["role"]:
            case "user":
                conversation.add_user(param, content)
            case "assistant":
                conversation.add_assistant(param, content)
            case _:
                conversation.add_system("\n\n".join(blocks.texts(param, content)))
        for name in turn.keys() - {"role", "content"}:
            if turn[name] is not None:
                blocks.leave_out(f"messages.{place}.{name}")
    if not conversation.messages:
        raise invalid("messages", "must have a message with content")
    return conversation.messages, blocks.ignored


def _call(param: str, block: Block) -> dict[str, Any]:
    arguments = json.dumps(field(param, block, "input", dict), ensure_ascii=False)
    function = {"name": field(param, block, "name", str), "arguments": arguments}
    return {"id": field(param, block, "id", str), "type": "function", "function": function}


def _content(texts: Sequence[str]) -> str | list[Part]:
    """Return a content of texts. The template joins several as the model is used to."""
    return "".join(texts) if len(texts) < 2 else [text_part(text) for text in texts]


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return two messages of one role as one."""
    merged = {**first, **second, "content": _joined(first["content"], second["content"])}
    if "reasoning_content" in first and "reasoning_content" in second:
        merged["reasoning_content"] = f"{first['reasoning_content']}\n{second['reasoning_content']}"
    if calls := [*first.get("tool_calls", ()), *second.get("tool_calls", ())]:
        merged["tool_calls"] = calls
    return merged


def _joined(first: str | list[Part], second: str | list[Part]) -> str | list[Part]:
    if not first or not second:
        return first or second
    return [*_parts(first), *_parts(second)]


def _parts(content: str | list[Part]) -> list[Part]:
    return [text_part(content)] if isinstance(content, str) else content
