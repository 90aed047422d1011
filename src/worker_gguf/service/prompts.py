"""Prompts: from what a call asks to the tokens that the model is to go on from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from worker_gguf.engine.request import SamplingParams
from worker_gguf.errors import ContextLengthExceeded, InvalidRequest
from worker_gguf.protocol.calls import Call, ChatCall, CompletionCall, Options, Prompt
from worker_gguf.template.chat_template import ChatTemplate

__all__ = ["Prompts", "Tokenizer"]


class Tokenizer(Protocol):
    """What the service needs of a vocabulary. Thread-safe."""

    n_tokens: int
    adds_bos: bool

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def text(self, tokens: Iterable[int]) -> str: ...


class Prompts:
    """Of one model. Raises the RequestError of a call that has no prompt this model can take. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, n_ctx: int, bos_text: str) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._n_ctx = n_ctx
        self._bos_text = bos_text

    def tokens(self, call: Call) -> list[tuple[int, ...]]:
        """Tokenise the prompts of a call."""
        match call:
            case ChatCall():
                return [self._checked(self._chat_tokens(call), "messages")]
            case CompletionCall():
                return [self._checked(self._completion_tokens(prompt), "prompt") for prompt in call.prompts]

    def echoed(self, call: Call) -> list[str]:
        """Return the texts of the prompts that the answer is to repeat, also of those given as tokens."""
        if not isinstance(call, CompletionCall) or not call.echo:
            return []
        return [prompt if isinstance(prompt, str) else self._tokenizer.text(prompt) for prompt in call.prompts]

    def _chat_tokens(self, call: ChatCall) -> tuple[int, ...]:
        text = self._template.prompt(
            call.messages,
            add_generation_prompt=call.add_generation_prompt,
            continue_final_message=call.continue_final_message,
            variables=call.template_variables,
        )
        # Most templates write BOS themselves; a second one would shift every position.
        has_bos = bool(self._bos_text) and text.startswith(self._bos_text)
        return self._tokens(text, add_special=not has_bos)

    def with_biases(self, options: Options) -> SamplingParams:
        """Biases by token id, those of texts laid over each token of the text."""
        biases = dict(options.sampling.logit_bias)
        self._check_tokens(biases, "logit_bias")
        for text, bias in options.text_biases:
            for token in self._tokenizer.tokenize(text, add_special=False, parse_special=False):
                biases[token] = bias
        return replace(options.sampling, logit_bias=tuple(biases.items()))

    def _completion_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self._tokens(prompt, add_special=True)
        self._check_tokens(prompt, "prompt")
        return prompt

    def _tokens(self, text: str, *, add_special: bool) -> tuple[int, ...]:
        return tuple(self._tokenizer.tokenize(text, add_special=add_special, parse_special=True))

    def _check_tokens(self, tokens: Iterable[int], param: str) -> None:
        n = self._tokenizer.n_tokens
        if wrong := next((token for token in tokens if not 0 <= token < n), None):
            raise InvalidRequest(f"{wrong} is no token of this model: its ids go from 0 to {n - 1}.", param=param)

    def _checked(self, tokens: tuple[int, ...], param: str) -> tuple[int, ...]:
        if not tokens:
            raise InvalidRequest("The prompt has no tokens. Send at least one.", param=param)
        if len(tokens) >= self._n_ctx:
            raise ContextLengthExceeded(len(tokens), self._n_ctx, param=param)
        return tokens
