"""Renders the answers of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker_gguf.generation.events import TokenLogprob
from worker_gguf.markup.parts import Content, Part, Reasoning, ToolCall
from worker_gguf.protocol.calls import ChatCall
from worker_gguf.protocol.openai.chunks import ChunkRendering
from worker_gguf.protocol.openai.logprobs import chat_logprobs
from worker_gguf.protocol.rendering import Heading, Outline

__all__ = ["ChatRendering", "render_chat"]


class ChatRendering(ChunkRendering):
    """The answers to one conversation.

    Reasoning has two names, because some clients read the one and some the other. With `is_legacy`, the call is a
    `function_call`, as in OpenAI's API before it had tools.
    """

    _answer_object = "chat.completion"
    _chunk_object = "chat.completion.chunk"

    def __init__(self, heading: Heading, *, is_legacy: bool = False, **options: Any) -> None:
        self._is_legacy = is_legacy
        super().__init__(heading, **options)

    def _first_chunks(self, index: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]

    def _chunk_choice(
        self, index: int, part: Part | None, tokens: Sequence[TokenLogprob] | None, reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {} if part is None else _delta(part, self._is_legacy),
            "logprobs": None if tokens is None else _logprobs(tokens),
            "finish_reason": reason,
        }

    def _whole_choice(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "message": _message(self._parts[index], self._is_legacy),
            "logprobs": _logprobs(self._tokens[index]) if self.logprobs else None,
            "finish_reason": self._reason(index),
        }

    def _open(self, index: int) -> bytes:
        """Open all choices up to this one, because OpenAI's client appends each new one to a list."""
        return b"".join(super(ChatRendering, self)._open(i) for i in range(index + 1) if not self._is_open[i])

    def _of_the_prompt(self) -> dict[str, Any]:
        return {} if self._prompt_ids is None else {"prompt_token_ids": self._prompt_ids[0]}

    def _reason(self, index: int) -> str:
        reason = super()._reason(index)
        return "function_call" if self._is_legacy and reason == "tool_calls" else reason


def render_chat(call: ChatCall, outline: Outline) -> ChatRendering:
    options = call.options
    return ChatRendering(
        outline.heading,
        n=options.n,
        include_usage=options.include_usage,
        logprobs=options.top_logprobs is not None,
        new_parser=outline.new_parser,
        hides_reasoning=call.reasoning.is_hidden,
        is_legacy=call.tools.is_legacy,
        prompt_ids=outline.prompts if options.shows_ids else None,
    )


def _delta(part: Part, is_legacy: bool) -> dict[str, Any]:
    match part:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return {"reasoning_content": text, "reasoning": text}
        case ToolCall(number, call_id, name, arguments):
            function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
            if is_legacy:
                return {"function_call": function}
            head = {} if name is None else {"id": call_id, "type": "function"}
            return {"tool_calls": [{"index": number, **head, "function": function}]}


def _message(parts: Sequence[Part], is_legacy: bool) -> dict[str, Any]:
    """Return the whole message. As in OpenAI's API, `content` is null if there are only tool calls."""
    content = "".join(part.text for part in parts if isinstance(part, Content))
    reasoning = "".join(part.text for part in parts if isinstance(part, Reasoning))
    calls = _calls(parts)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content if content or not calls else None,
        "refusal": None,
    }
    if reasoning:
        message |= {"reasoning_content": reasoning, "reasoning": reasoning}
    if calls and is_legacy:
        message["function_call"] = calls[0]["function"]
    elif calls:
        message["tool_calls"] = calls
    return message


def _calls(parts: Sequence[Part]) -> list[dict[str, Any]]:
    calls: dict[int, tuple[ToolCall, list[str]]] = {}
    for part in parts:
        if isinstance(part, ToolCall):
            calls.setdefault(part.number, (part, []))[1].append(part.arguments)
    return [
        {"id": first.id, "type": "function", "function": {"name": first.name, "arguments": "".join(arguments)}}
        for first, arguments in calls.values()
    ]


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": chat_logprobs(tokens), "refusal": None}
