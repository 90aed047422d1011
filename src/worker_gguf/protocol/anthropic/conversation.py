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


class _Turn:
    """What neighbouring messages of one role have. They become one message, as in Anthropic's API."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.thoughts: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self._parts: list[Part] = []

    def say(self, parts: Sequence[Part]) -> None:
        """Add the parts of one message."""
        if any(part.get("text") != "" for part in parts):
            self._parts += parts

    def message(self) -> dict[str, Any]:
        texts = [part["text"] for part in self._parts if part["type"] == "text"]
        message: dict[str, Any] = {"role": self.role, "content": self._parts}
        if len(texts) == len(self._parts) < 2:  # the template joins several texts as the model is used to
            message["content"] = "".join(texts)
        if self.thoughts:
            message["reasoning_content"] = "\n".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class Conversation:
    """The messages so far, of which the last one may still grow."""

    def __init__(self, blocks: Blocks) -> None:
        self._messages: list[dict[str, Any]] = []
        self._turn: _Turn | None = None
        self._blocks = blocks

    def ended(self) -> list[dict[str, Any]]:
        """End the last message, and return all of them."""
        if self._turn is not None:
            self._messages.append(self._turn.message())
            self._turn = None
        return self._messages

    def add_system(self, text: str) -> None:
        if text:
            self.ended().append({"role": "system", "content": text})

    def add_user(self, param: str, content: str | Sequence[Block]) -> None:
        """Add a message of the user. A result of a tool in it becomes a message of its own."""
        if isinstance(content, str):
            self._of("user").say([text_part(content)])
            return
        parts: list[Part] = []
        for at, block in blocks_of(param, content):
            if block.get("type") != "tool_result":
                parts.append(self._blocks.shown(at, block))
                continue
            self._say_as_user(parts)
            parts = []
            self._blocks.kind(at, block)
            call_id = field(at, block, "tool_use_id", str)
            result = self._blocks.result(at, block)
            self.ended().append({"role": "tool", "tool_call_id": call_id, "content": result})
        self._say_as_user(parts)

    def add_assistant(self, param: str, content: str | Sequence[Block]) -> None:
        turn = self._of("assistant")
        if isinstance(content, str):
            turn.say([text_part(content)])
            return
        texts: list[str] = []
        for at, block in blocks_of(param, content):
            match kind := self._blocks.kind(at, block):
                case "text":
                    texts.append(field(at, block, "text", str))
                case "thinking":
                    turn.thoughts += filter(None, [field(at, block, "thinking", str)])
                case "tool_use":
                    turn.calls.append(_call(at, block))
                case "redacted_thinking":
                    self._blocks.leave_out(at)
                case _ if kind in _OF_SERVERS or kind.endswith(_RESULT_OF_SERVERS):
                    self._blocks.leave_out(at)
                case _:
                    raise invalid(f"{at}.type", "must be 'text', 'thinking' or 'tool_use' here")
        turn.say([text_part(text) for text in texts])

    def _say_as_user(self, parts: Sequence[Part]) -> None:
        if parts:
            self._of("user").say(parts)

    def _of(self, role: str) -> _Turn:
        """Return the last turn if it is of this role, else a new one."""
        if self._turn is None or self._turn.role != role:
            self.ended()
            self._turn = _Turn(role)
        return self._turn


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
    messages = conversation.ended()
    if not messages:
        raise invalid("messages", "must have a message with content")
    return messages, blocks.ignored


def _call(param: str, block: Block) -> dict[str, Any]:
    arguments = json.dumps(field(param, block, "input", dict), ensure_ascii=False)
    function = {"name": field(param, block, "name", str), "arguments": arguments}
    return {"id": field(param, block, "id", str), "type": "function", "function": function}
