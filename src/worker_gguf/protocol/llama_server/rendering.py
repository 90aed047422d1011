"""Renders the answers of POST /completion and POST /infill.

Streaming must be fast: a chunk without log-probabilities and times is joined from its parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from worker_gguf.errors import WorkerError
from worker_gguf.generation.events import Delta, Event, Finished, PromptLogprobs, TokenLogprob
from worker_gguf.generation.progress import Progress
from worker_gguf.protocol.choice import ParsedChoice
from worker_gguf.protocol.llama_server.calls import NativeCompletion, NativeInfill
from worker_gguf.protocol.llama_server.reports import generation_settings, timings
from worker_gguf.protocol.rendering import JsonBody, Outline, Rendering, encode

__all__ = ["NativeRendering", "render"]

# The number of a slot is not known here, and llama-server's -1 means any slot.
_SLOT: Final = -1
# llama-server's value for a token that cannot be drawn; JSON has no infinity.
_LOWEST: Final = -3.4028234663852886e38


class _Choice:
    """One answer: its text, its tokens and its log-probabilities so far."""

    def __init__(self, outline: Outline) -> None:
        self.parsed = ParsedChoice(outline.new_parser)
        self.texts: list[str] = []
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.n_sent = 0
        self.has_new_line = False


class NativeRendering(Rendering):
    """The answers to one or more prompts: an object if there is one answer, otherwise a list of them.

    Choice `i` of prompt `k` has the index `k*n + i`.
    """

    def __init__(self, call: NativeCompletion | NativeInfill, outline: Outline) -> None:
        self._options, self._form, self._outline = call.options, call.form, outline
        n_choices = len(outline.prompts) * call.options.n
        self._choices = [_Choice(outline) for _ in range(n_choices)]
        self.tallies = tuple(choice.parsed.tally for choice in self._choices)
        self._has_logprobs = call.options.top_logprobs is not None
        self._n_prompt = [len(outline.prompts[index // call.options.n]) for index in range(n_choices)]

    def stream(self, index: int, events: Sequence[Event]) -> bytes:
        if self.error is not None:
            return b""
        if len(events) == 1 and type(event := events[0]) is Delta and not self._has_logprobs:
            return self._text_chunk(index, event.text, event.tokens).encode()  # this runs for every token of a stream
        deltas = [event for event in events if isinstance(event, Delta)]
        if self._has_logprobs:
            data = "".join(self._token_chunks(index, delta) for delta in deltas)
        elif deltas:
            data = self._text_chunk(
                index, "".join(delta.text for delta in deltas), [token for delta in deltas for token in delta.tokens]
            )
        else:
            data = ""
        if events and isinstance(last := events[-1], Finished) and self._finish(index, last) is None:
            data += f"data: {encode(self._ended(index, last))}\n\n"
        return data.encode()

    def stream_end(self) -> bytes:
        return b""

    def collect(self, index: int, events: Sequence[Event]) -> None:
        choice = self._choices[index]
        for event in events:
            match event:
                case Delta():
                    choice.texts.append(event.text)
                    choice.ids += event.tokens
                    choice.logprobs += event.logprobs
                case Finished():
                    self._finish(index, event)
                case PromptLogprobs():
                    pass

    def answer(self) -> JsonBody:
        if self.error is not None:
            raise self.error
        answers = [self._whole(index) for index in range(len(self._choices))]
        return answers[0] if len(answers) == 1 else answers

    def _finish(self, index: int, event: Finished) -> WorkerError | None:
        error = self._choices[index].parsed.finish(event)
        self.error = self.error or error
        return error

    def _text_chunk(self, index: int, text: str, ids: Sequence[int]) -> str:
        choice = self._choices[index]
        choice.n_sent += len(ids)
        if "\n" in text:
            choice.has_new_line = True
        times = f',"timings":{encode(self._timings(index, choice.n_sent))}' if self._form.has_timings else ""
        return (
            f'data: {{"index":{index},"content":{encode(text)},"tokens":[{",".join(map(str, ids))}],"stop":false,'
            f'"id_slot":{_SLOT},"tokens_predicted":{choice.n_sent},"tokens_evaluated":{self._n_prompt[index]}{times}}}\n\n'
        )

    def _token_chunks(self, index: int, delta: Delta) -> str:
        """Return a chunk for each token of a delta, because each chunk has the log-probabilities of one."""
        last = len(delta.logprobs) - 1
        chunks: list[str] = []
        for place, logprob in enumerate(delta.logprobs):
            chunk = self._text_chunk(index, delta.text if place == last else "", (logprob.token,))
            own = f',"completion_probabilities":{encode([_probabilities(logprob)])}}}\n\n'
            chunks.append(chunk.removesuffix("}\n\n") + own)
        return "".join(chunks) if chunks else self._text_chunk(index, delta.text, delta.tokens)

    def _whole(self, index: int) -> dict[str, Any]:
        choice = self._choices[index]
        assert choice.parsed.finished is not None, "the answer has not ended"
        content = "".join(choice.texts)
        choice.has_new_line = "\n" in content
        return self._ended(index, choice.parsed.finished, content, choice.ids if self._form.has_tokens else ())

    def _ended(self, index: int, finished: Finished, content: str = "", ids: Sequence[int] = ()) -> dict[str, Any]:
        """Return the whole answer, or the last chunk of a stream, which has no text."""
        choice, usage = self._choices[index], finished.usage
        answer: dict[str, Any] = {
            "index": index,
            "content": content,
            "tokens": list(ids),
            "id_slot": _SLOT,
            "stop": True,
            "model": self._outline.heading.model,
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "generation_settings": generation_settings(self._options, has_timings=self._form.has_timings),
            "prompt": self._outline.texts[index // self._options.n] if self._outline.texts else "",
            "has_new_line": choice.has_new_line,
            "truncated": self._outline.is_cut or self._is_context_full(finished),
            "stop_type": _stop_type(finished, ends_at_lines=self._options.lines is not None),
            "stopping_word": finished.stop or "",
            "tokens_cached": usage.prompt_tokens + usage.completion_tokens - _n_uncomputed(finished),
            "timings": self._timings(index, usage.completion_tokens),
        }
        if choice.logprobs:
            answer["completion_probabilities"] = [_probabilities(logprob) for logprob in choice.logprobs]
        return _selected(answer, self._form.fields) if self._form.fields else answer

    def _is_context_full(self, finished: Finished) -> bool:
        """Whether the answer ended where the context does."""
        wanted = self._options.max_tokens
        return finished.reason == "length" and (wanted is None or finished.usage.completion_tokens < wanted)

    def _timings(self, index: int, n_generated: int) -> dict[str, Any]:
        return timings(self.progress[index] if self.progress else Progress(0.0, self._n_prompt[index]), n_generated)


def render(call: NativeCompletion | NativeInfill, outline: Outline) -> NativeRendering:
    return NativeRendering(call, outline)


def _stop_type(finished: Finished, *, ends_at_lines: bool) -> str:
    if finished.stop is not None:
        return "word"
    is_at_line = ends_at_lines and finished.end_token is None
    return "limit" if finished.reason == "length" or is_at_line else "eos"


def _n_uncomputed(finished: Finished) -> int:
    """Return how many tokens of an answer are not in the memory of the model: the last one, unless another followed."""
    return 0 if finished.end_token is not None or not finished.usage.completion_tokens else 1


def _probabilities(logprob: TokenLogprob) -> dict[str, Any]:
    own = _entry(logprob.token, logprob.piece, logprob.logprob)
    return own | {"top_logprobs": [_entry(token, piece, value) for token, piece, value in logprob.top]}


def _entry(token: int, piece: bytes, logprob: float | None) -> dict[str, Any]:
    """Render a token. Its text leaves out a character that is not complete; its bytes have all of it."""
    value = logprob if logprob is not None and math.isfinite(logprob) else _LOWEST
    return {"id": token, "token": piece.decode("utf-8", "ignore"), "bytes": list(piece), "logprob": value}


def _selected(answer: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Return the fields at these paths, such as `timings/prompt_n`, each under its path. Others are left out."""
    selected: dict[str, Any] = {}
    for path in paths:
        value: Any = answer
        for name in path.split("/"):
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
        else:
            selected[path] = value
    return selected
