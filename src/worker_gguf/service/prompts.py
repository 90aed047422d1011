"""Turns the prompts of a call into tokens, with the chat template and the vocabulary of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from msgspec.structs import replace

from worker_gguf.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import Call, ChatCall, CompletionCall, Options, Prompt
from worker_gguf.template.chat_template import ChatTemplate

__all__ = ["Prompts", "Tokenizer"]

# The header for ignored parameters cannot hold more ids.
MAX_NAMED = 200


class Tokenizer(Protocol):
    """The part of a vocabulary that the service uses. Thread-safe."""

    n_tokens: int
    adds_bos: bool

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def text(self, tokens: Iterable[int]) -> str: ...


class Prompts:
    """Prepares calls for one model. Thread-safe."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, n_ctx: int, bos_text: str, strict: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._n_ctx = n_ctx
        self._bos_text = bos_text
        self._strict = strict

    def prepare(self, call: Call) -> tuple[list[tuple[int, ...]], Options]:
        """Return the tokens of each prompt of the call, and its options, adapted to the model.

        The options list the parameters that this model's template and vocabulary ignore. Raises a RequestError if the
        model cannot take a prompt, or if STRICT_PARAMETERS is set and a parameter would be ignored.
        """
        options, n_answer_tokens = self._with_token_biases(call.options), call.options.max_tokens
        match call:
            case ChatCall():
                variables, ignored = self._template_variables(call)
                tokens = self._chat_tokens(call, variables)
                options = replace(options, ignored=(*options.ignored, *ignored))
                return [self._checked(tokens, "messages", n_answer_tokens)], options
            case CompletionCall():
                prompts = (self._completion_tokens(prompt) for prompt in call.prompts)
                return [self._checked(tokens, "prompt", n_answer_tokens) for tokens in prompts], options

    def echoed(self, call: Call) -> list[str]:
        """Return the texts of the prompts that the answer must repeat. Prompts of tokens are turned into text."""
        if not isinstance(call, CompletionCall) or not call.echo:
            return []
        return [prompt if isinstance(prompt, str) else self._tokenizer.text(prompt) for prompt in call.prompts]

    def _template_variables(self, call: ChatCall) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return the variables for the template, and the names of fields that it does not read."""
        variables = dict(call.template_variables)
        if call.reasoning_effort is None:
            return variables, ()
        reasoning = self._template.reasoning_variables(call.reasoning_effort, variables)
        if reasoning is not None:
            return variables | reasoning, ()
        if self._strict:
            raise UnsupportedParameter(
                "'reasoning_effort' changes nothing here: this model's chat template does not read it, and "
                "STRICT_PARAMETERS is set. Leave it out.",
                param="reasoning_effort",
            )
        return variables, ("reasoning_effort",)

    def _chat_tokens(self, call: ChatCall, variables: Mapping[str, Any]) -> tuple[int, ...]:
        text = self._template.prompt(
            call.messages,
            add_generation_prompt=call.add_generation_prompt,
            continue_final_message=call.continue_final_message,
            variables=variables,
        )
        # Most templates write BOS. A second BOS would change the position of every token.
        has_bos = bool(self._bos_text) and text.startswith(self._bos_text)
        return self._tokens(text, add_special=not has_bos)

    def _with_token_biases(self, options: Options) -> Options:
        """Turn biases of texts into biases of their tokens, and remove ids that are not tokens of this model.

        Some clients use the tokenizer of another model. An unknown id has no effect, so it is listed as ignored, or
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
            # The prompt may already begin with BOS as text. If the tokenizer adds BOS, there would be two. If it does
            # not (for example GLM with [gMask]), the text is the only one and must stay.
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
