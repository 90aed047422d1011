"""Prompts: from what a call asks to the tokens that the model is to go on from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from worker_gguf.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import Call, ChatCall, CompletionCall, Options, Prompt
from worker_gguf.template.chat_template import ChatTemplate

__all__ = ["Prompts", "Tokenizer"]

# More ids than a header can name; that there are more, the header itself says.
MAX_NAMED = 200


class Tokenizer(Protocol):
    """What the service needs of a vocabulary. Thread-safe."""

    n_tokens: int
    adds_bos: bool

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def text(self, tokens: Iterable[int]) -> str: ...


class Prompts:
    """Of one model. Raises the RequestError of a call that has no prompt this model can take. Thread-safe."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, n_ctx: int, bos_text: str, strict: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._n_ctx = n_ctx
        self._bos_text = bos_text
        self._strict = strict

    def tokens(self, call: Call) -> list[tuple[int, ...]]:
        """Tokenise the prompts of a call."""
        match call:
            case ChatCall():
                return [self._checked(self._chat_tokens(call), "messages", call.options.max_tokens)]
            case CompletionCall():
                n_answer_tokens = call.options.max_tokens
                return [self._checked(self._completion_tokens(p), "prompt", n_answer_tokens) for p in call.prompts]

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

    def with_token_biases(self, options: Options) -> Options:
        """Lay the biases of texts over their tokens, and pass over ids that are no tokens of this model.

        Clients count tokens with another model's tokenizer. Such an id changes nothing, so it is named as ignored, or
        refused with STRICT_PARAMETERS.
        """
        n = self._tokenizer.n_tokens
        biases = {token: bias for token, bias in options.sampling.logit_bias if 0 <= token < n}
        unknown = sorted({token for token, _ in options.sampling.logit_bias} - biases.keys())
        if unknown and self._strict:
            message = f"{self._no_token(unknown[0])} STRICT_PARAMETERS is set: leave the id out."
            raise UnsupportedParameter(message, param="logit_bias")
        for text, bias in options.text_biases:
            for token in self._tokenizer.tokenize(text, add_special=False, parse_special=False):
                biases[token] = bias
        return replace(
            options,
            sampling=replace(options.sampling, logit_bias=tuple(biases.items())),
            text_biases=(),
            ignored=(*options.ignored, *(f"logit_bias.{token}" for token in unknown[:MAX_NAMED])),
        )

    def _completion_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            # A prompt made by a client for this model begins with BOS as a text. Where the tokenizer adds BOS itself,
            # there would be two; where it does not (GLM's [gMask]), the text is the only one.
            if self._bos_text and self._tokenizer.adds_bos:
                prompt = prompt.removeprefix(self._bos_text)
            return self._tokens(prompt, add_special=True)
        n = self._tokenizer.n_tokens
        wrong = next((token for token in prompt if not 0 <= token < n), None)
        if wrong is not None:
            raise InvalidRequest(self._no_token(wrong), param="prompt")
        return prompt

    def _tokens(self, text: str, *, add_special: bool) -> tuple[int, ...]:
        return tuple(self._tokenizer.tokenize(text, add_special=add_special, parse_special=True))

    def _no_token(self, wrong: int) -> str:
        return f"{wrong} is not a token of this model, whose ids go from 0 to {self._tokenizer.n_tokens - 1}."

    def _checked(self, tokens: tuple[int, ...], param: str, n_answer_tokens: int | None) -> tuple[int, ...]:
        if not tokens:
            raise InvalidRequest("The prompt has no tokens. Send at least one.", param=param)
        if len(tokens) >= self._n_ctx:
            raise ContextLengthExceeded(len(tokens), self._n_ctx, n_answer_tokens=n_answer_tokens, param=param)
        return tokens
