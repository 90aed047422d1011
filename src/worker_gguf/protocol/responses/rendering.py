"""Renders the answers of POST /v1/responses: a response with its items, or the events in which they grow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from worker_gguf.generation.events import TokenLogprob, Usage
from worker_gguf.markup.parts import Content, Part, ToolCall
from worker_gguf.protocol.choice import Pair
from worker_gguf.protocol.dialect import Wording
from worker_gguf.protocol.rendering import Outline
from worker_gguf.protocol.responses.output_items import Events, GrowingItem, Item
from worker_gguf.protocol.responses.requests import ResponsesCall
from worker_gguf.protocol.single import SingleRendering

__all__ = ["ResponsesRendering", "render_response"]

_STATUS: Final = {"stop": "completed", "tool_calls": "completed", "length": "incomplete"}


class ResponsesRendering(SingleRendering):
    """One response. Each stretch of reasoning, each text and each call is an item of its output."""

    def __init__(self, call: ResponsesCall, outline: Outline) -> None:
        super().__init__(outline)
        self._call = call
        self._events = Events()
        self._output: list[Item] = []
        self._growing: GrowingItem | None = None

    def _begin(self) -> bytes:
        response = self._response("in_progress")
        return self._events.write("created", response=response) + self._events.write("in_progress", response=response)

    def _render_part(self, part: Part, logprobs: Sequence[TokenLogprob]) -> bytes:
        growing = self._growing
        shown = logprobs if isinstance(part, Content) else ()
        if growing is not None and growing.takes(part):
            return growing.add(part, shown)
        is_first = growing is None and not self._output
        if not isinstance(part, ToolCall) and not part.text and not (shown and is_first):
            return b""  # tokens without a text, such as those of a stop text, begin no item of their own
        opened = self._close("completed") + self._open(part)
        assert self._growing is not None
        return opened + self._growing.add(part, shown)

    def _end(self) -> bytes:
        status = _STATUS[self.choice.reason]
        # An answer without anything has an empty text.
        data = self._open(Content("")) if self._growing is None and not self._output else b""
        data += self._close(status)
        return data + self._events.write(status, response=self._response(status, self.finished.usage))

    def failure(self, wording: Wording) -> bytes | None:
        if not self._has_begun:
            return None
        # OpenAI has a fixed list of codes; only the message can say more.
        error = {"code": "server_error", "message": wording.message}
        closed = self._close("incomplete")
        return closed + self._events.write("failed", response=self._response("failed", error=error))

    def _whole(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Return the response that the stream of the same parts ends with."""
        for part, logprobs in pairs:
            self._render_part(part, logprobs)
        if self._growing is None:
            self._open(Content(""))
        status = _STATUS[self.choice.reason]
        self._close(status)
        return self._response(status, self.finished.usage)

    def _suffix(self, place: int) -> str:
        """Return the end of the id of an item."""
        return f"{self.heading.id.removeprefix('resp_')}{place:02d}"

    def _open(self, first: Part) -> bytes:
        place = len(self._output)
        self._growing = GrowingItem(self._events, first, self._suffix(place), place)
        return self._growing.begin()

    def _close(self, status: str) -> bytes:
        growing, self._growing = self._growing, None
        if growing is None:
            return b""
        data = growing.close(status)
        self._output.append(growing.item(status))
        return data

    def _response(self, status: str, usage: Usage | None = None, error: dict[str, str] | None = None) -> dict[str, Any]:
        sent, options = self._call.sent, self._call.options
        heading = self.heading
        sampling = options.sampling
        return {
            "id": heading.id,
            "object": "response",
            "created_at": heading.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": sent.get("instructions"),
            "max_output_tokens": sent.get("max_output_tokens"),
            "metadata": sent.get("metadata", {}),
            "model": heading.model,
            "output": list(self._output),
            "parallel_tool_calls": self._call.tools.use is None or self._call.tools.use.is_parallel,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None, **sent.get("reasoning", {})},
            "temperature": sampling.temperature,
            "text": {"format": {"type": "text"}, **sent.get("text", {})},
            "tool_choice": sent.get("tool_choice", "auto"),
            "tools": sent.get("tools", []),
            "top_logprobs": options.top_logprobs or 0,
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else self._usage(usage),
        }

    def _usage(self, usage: Usage) -> dict[str, Any]:
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self.choice.tally.reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }


def render_response(call: ResponsesCall, outline: Outline) -> ResponsesRendering:
    return ResponsesRendering(call, outline)
