"""Renders the answers of /v1/messages: a message of blocks, or the events that build one.

Streaming must be fast. So the bytes before and after the text of an event are rendered once for each block.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

from worker_gguf.generation.events import TokenLogprob, Usage
from worker_gguf.markup.parts import Content, Part, Reasoning, ToolCall
from worker_gguf.protocol.anthropic.errors import PING, event
from worker_gguf.protocol.calls import ChatCall
from worker_gguf.protocol.choice import Pair, WrittenCall, arguments_object, blocks
from worker_gguf.protocol.rendering import HOLE, JsonBody, Outline, around_texts, encode
from worker_gguf.protocol.single import SingleRendering

__all__ = ["MessageRendering", "render_message"]

# The type of the delta of each kind of block, and the field of its text.
_DELTAS = {
    Content: ("text_delta", "text"),
    Reasoning: ("thinking_delta", "thinking"),
    ToolCall: ("input_json_delta", "partial_json"),
}


class MessageRendering(SingleRendering):
    """Renders one message. A block of a stream ends before the next one begins.

    `max_tokens` is the longest answer that was asked for, or None.
    """

    def __init__(self, outline: Outline, max_tokens: int | None) -> None:
        super().__init__(outline)
        self._max_tokens = max_tokens
        self._n_blocks = 0
        self._open: type[Part] | None = None
        self._call: int | None = None
        self._around: list[bytes] = []
        self._thought = hashlib.sha256()

    def _begin(self) -> bytes:
        n_cached = self.n_cached_tokens
        n_written = self.progress[0].completion_tokens if self.progress else 0
        usage = self._usage(Usage(self.n_prompt_tokens, n_written, n_cached))
        return event({"type": "message_start", "message": self._message([], None, None, usage)}) + PING

    def _render_part(self, part: Part, logprobs: Sequence[TokenLogprob]) -> bytes:
        if type(part) is Content and self._open is Content:  # written out, because this runs for every token
            return encode(part.text).encode().join(self._around) if part.text else b""
        if isinstance(part, ToolCall):
            text = part.arguments
            begins = part.number != self._call
            block: dict[str, Any] = {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
        else:
            text = part.text
            if not text:
                return b""
            begins = type(part) is not self._open
            block = {"type": "text", "text": ""}
            if isinstance(part, Reasoning):
                block = {"type": "thinking", "thinking": "", "signature": ""}
        data = self._opened(part, block) if begins else b""
        if isinstance(part, Reasoning):
            self._thought.update(text.encode())
        return data + encode(text).encode().join(self._around) if text else data

    def _end(self) -> bytes:
        reason, stop = self._stop()
        delta = {"stop_reason": reason, "stop_sequence": stop}
        last = {"type": "message_delta", "delta": delta, "usage": self._usage(self.finished.usage)}
        return self._closed() + event(last) + event({"type": "message_stop"})

    def _whole(self, pairs: Sequence[Pair]) -> JsonBody:
        content = [_block(each) for each in blocks([part for part, _ in pairs])]
        return self._message(content, *self._stop(), self._usage(self.finished.usage))

    def _opened(self, part: Part, block: dict[str, Any]) -> bytes:
        """Return the events that end the open block and begin another one."""
        closing, index = self._closed(), self._n_blocks
        self._n_blocks += 1
        self._open = type(part)
        self._call = part.number if isinstance(part, ToolCall) else None
        kind, name = _DELTAS[self._open]
        delta = {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: HOLE}}
        self._around = around_texts(event(delta))
        return closing + event({"type": "content_block_start", "index": index, "content_block": block})

    def _closed(self) -> bytes:
        """Return the events that end the open block, if any."""
        if self._open is None:
            return b""
        index = self._n_blocks - 1
        signature = b""
        if self._open is Reasoning:
            delta = {"type": "signature_delta", "signature": _signature(self._thought.digest())}
            signature = event({"type": "content_block_delta", "index": index, "delta": delta})
            self._thought = hashlib.sha256()
        self._open = None
        return signature + event({"type": "content_block_stop", "index": index})

    def _stop(self) -> tuple[str, str | None]:
        """Return the reason of the end, and the stop text that was its reason."""
        match self.choice.reason:
            case "tool_calls":
                return "tool_use", None
            case "length":
                is_full = self._max_tokens is None or self.finished.usage.completion_tokens < self._max_tokens
                return ("model_context_window_exceeded" if is_full else "max_tokens"), None
            case _:
                stop = self.finished.stop
                return ("end_turn" if stop is None else "stop_sequence"), stop

    def _message(
        self, content: list[dict[str, Any]], reason: str | None, stop: str | None, usage: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "id": self.heading.id,
            "type": "message",
            "role": "assistant",
            "model": self.heading.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        }

    def _usage(self, usage: Usage) -> dict[str, Any]:
        """Render the usage. Nothing is charged for what is kept in memory, so no tokens count as written there."""
        return {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"thinking_tokens": self.choice.tally.reasoning_tokens},
        }


def render_message(call: ChatCall, outline: Outline) -> MessageRendering:
    return MessageRendering(outline, call.options.max_tokens)


def _block(block: Content | Reasoning | WrittenCall) -> dict[str, Any]:
    match block:
        case Content(text):
            return {"type": "text", "text": text}
        case Reasoning(text):
            signature = _signature(hashlib.sha256(text.encode()).digest())
            return {"type": "thinking", "thinking": text, "signature": signature}
        case WrittenCall(id=call_id, name=name, arguments=arguments):
            return {"type": "tool_use", "id": call_id, "name": name, "input": arguments_object(arguments)}


def _signature(digest: bytes) -> str:
    """Return a text that clients keep with the thinking and send back. Nothing here reads it."""
    return base64.b64encode(digest).decode()
