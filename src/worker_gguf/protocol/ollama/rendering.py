"""Renders the answers of Ollama's API, in lines of JSON or whole.

Streaming must be fast. So the bytes around the text of a line are rendered once.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from worker_gguf.generation.events import TokenLogprob
from worker_gguf.markup.parts import Content, Part, Reasoning, ToolCall
from worker_gguf.protocol.calls import ChatCall, CompletionCall, InfillCall
from worker_gguf.protocol.choice import Pair, WrittenCall, arguments_object, blocks
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.ollama.times import evaluation_times, nanoseconds, rfc3339
from worker_gguf.protocol.openai.logprobs import chat_logprobs
from worker_gguf.protocol.rendering import HOLE, Outline, around_texts, encode
from worker_gguf.protocol.single import SingleRendering

__all__ = ["ChatRendering", "GenerateRendering", "loaded_chat", "loaded_generate", "render_chat", "render_generate"]

_TIME_HOLE: Final = "\x00time\x00"


class OllamaRendering(SingleRendering):
    """Renders one answer. `model` is the name that the client gave the model, which the answer repeats.

    With `has_context`, the answer has the tokens of the prompt and of its own, which a later prompt can continue.
    """

    def __init__(self, outline: Outline, model: str | None, *, logprobs: bool, has_context: bool) -> None:
        super().__init__(outline)
        self._model = model or outline.heading.model
        self._has_logprobs = logprobs
        self._has_context = has_context
        self._unsent: list[TokenLogprob] = []
        self._call: WrittenCall | None = None
        self._n_calls = 0
        self._around = {kind: self._split(kind(HOLE)) for kind in (Content, Reasoning)}

    @abstractmethod
    def _fields(self, content: str, thinking: str, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the fields that have the text of an answer or of a line."""

    def _begin(self) -> bytes:
        return b""

    def _render_part(self, part: Part, logprobs: Sequence[TokenLogprob]) -> bytes:
        before = self._end_call() if not isinstance(part, ToolCall) or part.name is not None else b""
        if self._has_logprobs:
            self._unsent += logprobs
        if isinstance(part, ToolCall):
            self._add_to_call(part)
            return before
        if self._unsent:
            content, thinking = (part.text, "") if isinstance(part, Content) else ("", part.text)
            return before + self._line(self._fields(content, thinking, ()))
        head, middle, tail = self._around[type(part)]
        now = rfc3339(time.time_ns()).encode()
        return b"".join((before, head, now, middle, encode(part.text).encode(), tail))

    def _end(self) -> bytes:
        return self._end_call() + self._line(self._fields("", "", ()), self._ending_fields())

    def _whole(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        whole = blocks([part for part, _ in pairs])
        content = "".join(block.text for block in whole if isinstance(block, Content))
        thinking = "".join(block.text for block in whole if isinstance(block, Reasoning))
        written = [block for block in whole if isinstance(block, WrittenCall)]
        calls = [_call_body(number, call) for number, call in enumerate(written)]
        self._unsent = [logprob for _, own in pairs for logprob in own] if self._has_logprobs else []
        return self._body(self._fields(content, thinking, calls), self._ending_fields())

    def _add_to_call(self, part: ToolCall) -> None:
        """Note a piece of a call, which is sent when it is whole."""
        if part.name is not None:
            self._call = WrittenCall(part.id or "", part.name, part.arguments)
            return
        assert self._call is not None, "a call begins with its name"
        call = self._call
        self._call = WrittenCall(call.id, call.name, call.arguments + part.arguments)

    def _end_call(self) -> bytes:
        """Return the line of the call that is whole now, if any."""
        if self._call is None:
            return b""
        body = _call_body(self._n_calls, self._call)
        self._call, self._n_calls = None, self._n_calls + 1
        return self._line(self._fields("", "", [body]))

    def _line(self, fields: dict[str, Any], ending: dict[str, Any] | None = None) -> bytes:
        return encode(self._body(fields, ending)).encode() + b"\n"

    def _body(self, fields: dict[str, Any], ending: dict[str, Any] | None) -> dict[str, Any]:
        body = {"model": self._model, "created_at": rfc3339(time.time_ns()), **fields, "done": ending is not None}
        logprobs = {"logprobs": chat_logprobs(self._unsent)} if self._unsent else {}
        self._unsent = []
        return body | logprobs | (ending or {})

    def _ending_fields(self) -> dict[str, Any]:
        """Return the fields of the last line: why the answer ended, its counts and its times."""
        usage, progress = self.finished.usage, self.progress[0]
        ended_s = time.monotonic() if progress.ended_s is None else progress.ended_s
        first_s = ended_s if progress.first_token_s is None else progress.first_token_s
        admitted_s = first_s if progress.admitted_s is None else progress.admitted_s
        n_computed = usage.prompt_tokens - usage.cached_tokens
        prompt_eval_ns, eval_ns = evaluation_times(admitted_s, first_s, ended_s, n_computed, usage.completion_tokens)
        context: dict[str, Any] = {}
        if self._has_context:
            end = () if self.finished.end_token is None else (self.finished.end_token,)
            context = {"context": [*self.outline.prompts[0], *self.token_ids, *end]}
        return {
            "done_reason": self.finished.reason,
            **context,
            "total_duration": nanoseconds(ended_s - self.outline.started_s),
            "load_duration": nanoseconds(self.outline.load_s),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": prompt_eval_ns,
            "eval_count": usage.completion_tokens,
            "eval_duration": eval_ns,
        }

    def _split(self, part: Content | Reasoning) -> tuple[bytes, bytes, bytes]:
        """Return the bytes of a line with a text, split at the places of its time and of the text."""
        content, thinking = (part.text, "") if isinstance(part, Content) else ("", part.text)
        fields = {"created_at": _TIME_HOLE, **self._fields(content, thinking, ()), "done": False}
        # The name of the model is put before, because a client may have chosen any text for it.
        before, _, rest = encode(fields)[1:].partition(encode(_TIME_HOLE)[1:-1])
        middle, tail = around_texts(rest.encode())
        model = f'{{"model":{encode(self._model)},'
        return (model + before).encode(), middle, tail + b"\n"


class ChatRendering(OllamaRendering):
    def _fields(self, content: str, thinking: str, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = list(calls)
        return {"message": message}


class GenerateRendering(OllamaRendering):
    def _fields(self, content: str, thinking: str, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {"response": content}
        if thinking:
            fields["thinking"] = thinking
        return fields | ({"tool_calls": list(calls)} if calls else {})


def render_chat(call: ChatCall, outline: Outline) -> ChatRendering:
    options = call.options
    return ChatRendering(outline, options.model, logprobs=options.top_logprobs is not None, has_context=False)


def render_generate(call: ChatCall | CompletionCall | InfillCall, outline: Outline) -> GenerateRendering:
    """Render the answer to one prompt. As in Ollama, one that is continued as it is has no context.

    Nor has one with images, which are no tokens.
    """
    options = call.options
    return GenerateRendering(
        outline,
        options.model,
        logprobs=options.top_logprobs is not None,
        has_context=isinstance(call, ChatCall) and not call.images,
    )


def loaded_chat(model: str | None, reason: str, card: ModelCard) -> dict[str, Any]:
    """Render the answer to a chat without messages."""
    return _loaded(model, reason, card, {"message": {"role": "assistant", "content": ""}})


def loaded_generate(model: str | None, reason: str, card: ModelCard) -> dict[str, Any]:
    """Render the answer to a request without a prompt."""
    return _loaded(model, reason, card, {"response": ""})


def _loaded(model: str | None, reason: str, card: ModelCard, fields: dict[str, Any]) -> dict[str, Any]:
    head = {"model": model or card.id, "created_at": rfc3339(time.time_ns())}
    return {**head, **fields, "done": True, "done_reason": reason}


def _call_body(number: int, call: WrittenCall) -> dict[str, Any]:
    function = {"index": number, "name": call.name, "arguments": arguments_object(call.arguments)}
    return {"id": call.id, "function": function}
