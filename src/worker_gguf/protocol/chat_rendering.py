"""Renders the answers of /v1/chat/completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from worker_gguf.generation.events import TokenLogprob
from worker_gguf.markup.parts import Content, Part, Reasoning, ToolCall
from worker_gguf.protocol.calls import ChatCall
from worker_gguf.protocol.logprobs import chat_logprobs
from worker_gguf.protocol.rendering import Heading, Rendering

__all__ = ["ChatRendering", "render_chat"]


class ChatRendering(Rendering):
    """The answers to one conversation."""

    _answer_object = "chat.completion"
    _chunk_object = "chat.completion.chunk"

    def __init__(self, heading: Heading, **options: Any) -> None:
        self._has_called: dict[int, bool] = defaultdict(bool)
        super().__init__(heading, **options)

    def _first_chunks(self, index: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]

    def _chunk_choice(
        self, index: int, part: Part | None, tokens: Sequence[TokenLogprob] | None, reason: str | None
    ) -> dict[str, Any]:
        if isinstance(part, ToolCall):
            self._has_called[index] = True
        return {
            "index": index,
            "delta": {} if part is None else _delta(part),
            "logprobs": None if tokens is None else _logprobs(tokens),
            "finish_reason": self._finish_reason(index, reason),
        }

    def _whole_choice(self, index: int) -> dict[str, Any]:
        message = _message(self._parts[index])
        self._has_called[index] = "tool_calls" in message
        return {
            "index": index,
            "message": message,
            "logprobs": _logprobs(self._tokens[index]) if self.logprobs else None,
            "finish_reason": self._finish_reason(index, self._reasons[index]),
        }

    def _finish_reason(self, index: int, reason: str | None) -> str | None:
        return "tool_calls" if reason == "stop" and self._has_called[index] else reason


def render_chat(call: ChatCall, heading: Heading, _prompts: Sequence[str]) -> ChatRendering:
    options = call.options
    return ChatRendering(
        heading,
        n=options.n,
        include_usage=options.include_usage,
        logprobs=options.top_logprobs is not None,
    )


def _delta(part: Part) -> dict[str, Any]:
    match part:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return {"reasoning_content": text}
        case ToolCall(number, None, _, arguments):
            return {"tool_calls": [{"index": number, "function": {"arguments": arguments}}]}
        case ToolCall(number, call_id, name, arguments):
            function = {"name": name, "arguments": arguments}
            return {"tool_calls": [{"index": number, "id": call_id, "type": "function", "function": function}]}


def _message(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the whole message. As in OpenAI's API, `content` is null if there are only tool calls."""
    content = "".join(part.text for part in parts if isinstance(part, Content))
    reasoning = "".join(part.text for part in parts if isinstance(part, Reasoning))
    calls: dict[int, dict[str, Any]] = {}
    for part in parts:
        if isinstance(part, ToolCall):
            new = {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": ""}}
            calls.setdefault(part.number, new)["function"]["arguments"] += part.arguments
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content if content or not calls else None,
        "refusal": None,
    }
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = list(calls.values())
    return message


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": chat_logprobs(tokens), "refusal": None}
