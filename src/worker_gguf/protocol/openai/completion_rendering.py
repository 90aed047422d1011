"""Renders the answers of /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker_gguf.generation.events import TokenLogprob
from worker_gguf.markup.parts import Content, Part
from worker_gguf.protocol.calls import CompletionCall, InfillCall
from worker_gguf.protocol.openai.chunks import ChunkRendering
from worker_gguf.protocol.openai.logprobs import CompletionLogprobs
from worker_gguf.protocol.rendering import Heading, Outline

__all__ = ["CompletionRendering", "render_completion"]


class CompletionRendering(ChunkRendering):
    """The answers to one or more prompts. With `echo`, the texts of the prompts, each answer begins with its prompt.

    A completion has one text, so its parser returns only content.
    """

    _answer_object = "text_completion"
    _chunk_object = "text_completion"

    def __init__(
        self,
        heading: Heading,
        *,
        n_prompts: int = 1,
        n: int = 1,
        include_usage: bool = False,
        logprobs: bool = False,
        echo: Sequence[str] | None = None,
        prompt_ids: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self._echo = echo
        self._logprobs = [CompletionLogprobs() for _ in range(n_prompts * n)]
        super().__init__(
            heading,
            n_prompts=n_prompts,
            n=n,
            include_usage=include_usage,
            logprobs=logprobs,
            prompt_ids=prompt_ids,
        )

    def _first_chunks(self, index: int) -> list[dict[str, Any]]:
        prompt, tokens = self._prompt(index), self._prompt_tokens[index]
        ids = self._ids_of_prompt(index)
        if not (prompt or tokens or ids):
            return []
        self._logprobs[index].echo(tokens, prompt)
        return [self._chunk_choice(index, Content(prompt), tokens or None, None) | ids]

    def _chunk_choice(
        self, index: int, part: Part | None, tokens: Sequence[TokenLogprob] | None, reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": "" if part is None else _text(part),
            "logprobs": None if tokens is None else self._logprobs[index].render(tokens),
            "finish_reason": reason,
        }

    def _whole_choice(self, index: int) -> dict[str, Any]:
        tokens = [*self._prompt_tokens[index], *self._tokens[index]]
        if self._echo:
            self._logprobs[index].echo(self._prompt_tokens[index], self._prompt(index))
        return {
            "index": index,
            "text": self._prompt(index) + "".join(map(_text, self._parts[index])),
            "logprobs": self._logprobs[index].render(tokens) if self.logprobs else None,
            "finish_reason": self._reason(index),
        } | self._ids_of_prompt(index)

    def _ids_of_prompt(self, index: int) -> dict[str, Any]:
        """Return the ids of the choice's prompt. They are a field of the choice, because prompts may be several."""
        return {} if self._prompt_ids is None else {"prompt_token_ids": self._prompt_ids[index // self.n]}

    def _prompt(self, index: int) -> str:
        return self._echo[index // self.n] if self._echo else ""


def render_completion(call: CompletionCall | InfillCall, outline: Outline) -> CompletionRendering:
    options = call.options
    return CompletionRendering(
        outline.heading,
        n_prompts=1 if isinstance(call, InfillCall) else len(call.prompts),
        n=options.n,
        include_usage=options.include_usage,
        logprobs=options.top_logprobs is not None,
        echo=outline.texts if isinstance(call, CompletionCall) and call.echo else None,
        prompt_ids=outline.prompts if options.shows_ids else None,
    )


def _text(part: Part) -> str:
    return part.text if isinstance(part, Content) else ""
