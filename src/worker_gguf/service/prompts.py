"""Turns the prompts of a call into tokens, with the chat template and the vocabulary of the model."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.engine.image_runs import IMAGE
from worker_gguf.engine.request import Thinking
from worker_gguf.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from worker_gguf.markup.parts import ContentParser, NewParser
from worker_gguf.protocol.calls import Call, ChatCall, CompletionCall, InfillCall, MixedPrompt, Options, Prompt
from worker_gguf.protocol.screening import MAX_IGNORED
from worker_gguf.service.conversations import Conversations
from worker_gguf.service.infill import FimTokenizer, infill_prompt
from worker_gguf.service.markups import Pieces

__all__ = ["Prepared", "Prompts", "Tokenizer"]


class Tokenizer(Pieces, FimTokenizer, Protocol):
    """The part of a vocabulary that the service uses. Thread-safe."""

    n_tokens: int

    def control_piece(self, token: int) -> bytes:
        """Return the token's bytes, with control tokens written out."""
        ...

    def text(self, tokens: Iterable[int]) -> str: ...


class Prepared(Struct, frozen=True):
    """The tokens of each prompt of a call, and its options, adapted to the model.

    `new_parser` creates the parser of one choice. `thinking` and `shown` are those of its GenerationRequests. With
    `is_cut`, the prompt has less than was sent. `images` are places in the call's images, in the order of the prompt,
    and `image_params` are their places in the body.
    """

    prompts: list[tuple[int, ...]]
    options: Options
    new_parser: NewParser = ContentParser
    thinking: Thinking | None = None
    shown: frozenset[int] = frozenset()
    is_cut: bool = False
    images: tuple[int, ...] = ()
    image_params: tuple[str, ...] = ()


class Prompts:
    """Prepares calls for one model. Thread-safe."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        conversations: Conversations,
        n_ctx: int,
        bos_text: str,
        strict: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._conversations = conversations
        self._n_ctx = n_ctx
        self._bos_text = bos_text
        self._strict = strict
        self._lock = threading.Lock()
        self._known_controls: frozenset[int] | None = None

    def prepare(self, call: Call) -> Prepared:
        """Return the tokens of each prompt of the call, its options, adapted to the model, and its parser.

        The options list the parameters that this model's template and vocabulary ignore. Raises a RequestError if the
        model cannot take a prompt, or if STRICT_PARAMETERS is set and a parameter would be ignored. Names of fields are
        those that the client sent.
        """
        with call.options.names.in_errors():
            return self._prepared(call)

    def _prepared(self, call: Call) -> Prepared:
        options = self._with_stop_tokens(self._with_token_biases(call.options))
        match call:
            case ChatCall():
                prepared = self._chat(call, options)
            case CompletionCall():
                prompts = (self._completion_tokens(prompt) for prompt in call.prompts)
                prompt = [self._checked(tokens, "prompt", options.max_tokens) for tokens in prompts]
                prepared = Prepared(prompt, options)
            case InfillCall():
                infill = infill_prompt(call, self._tokenizer, self._n_ctx)
                tokens = self._checked(infill.tokens, "prompt", options.max_tokens)
                prepared = Prepared([tokens], options, is_cut=infill.is_cut)
        return replace(prepared, shown=self._controls()) if options.shows_controls else prepared

    async def examined(self, call: Call) -> None:
        """Return when `prepare` need not wait for the template of a call to be examined."""
        if isinstance(call, ChatCall):
            await self._conversations.examined(call)

    def is_quick(self, call: Call) -> bool:
        """Return whether `prepare` need not look at each token of the vocabulary first."""
        return not call.options.shows_controls or self._known_controls is not None

    def repeated(self, call: Call, prepared: Prepared) -> list[str]:
        """Return the texts of the prompts that the answer must repeat. Prompts of tokens are turned into text."""
        if isinstance(call, ChatCall):
            return []
        if call.shows_prompt:
            return [self._tokenizer.text(tokens) for tokens in prepared.prompts]
        if isinstance(call, InfillCall) or not call.echo:
            return []
        sent = zip(call.prompts, prepared.prompts, strict=True)
        return [prompt if isinstance(prompt, str) else self._tokenizer.text(tokens) for prompt, tokens in sent]

    def prompt_text(self, call: ChatCall) -> str:
        """Return the text of a conversation's prompt. Raises TemplateError or UnsupportedParameter."""
        with call.options.names.in_errors():
            return self._conversations.render(call).text

    def prompt_tokens(self, call: Call) -> list[tuple[int, ...]]:
        """Return the tokens of each prompt of a call, even if it is longer than the context. Raises a RequestError."""
        with call.options.names.in_errors():
            return self._prompt_tokens(call)

    def _prompt_tokens(self, call: Call) -> list[tuple[int, ...]]:
        match call:
            case ChatCall():
                if call.images:
                    raise UnsupportedParameter(
                        "The tokens of an image are known only when it is encoded, so a conversation with images is "
                        "not counted. Send it without images, or to a route that generates, whose usage counts them.",
                        param=call.images[0].param,
                    )
                return [self._conversation_tokens(call, self._conversations.render(call).pieces)]
            case CompletionCall():
                return [self._completion_tokens(prompt) for prompt in call.prompts]
            case InfillCall():
                return [infill_prompt(replace(call, fits_context=False), self._tokenizer, self._n_ctx).tokens]

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return self._tokenizer.tokenize(text, add_special=add_special, parse_special=parse_special)

    def text(self, tokens: Sequence[int], param: str) -> str:
        """Return the text of tokens. Raises InvalidRequest with this `param` for one that is not in the vocabulary."""
        self._check_known(tokens, param)
        return self._tokenizer.text(tokens)

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token, with control tokens written out."""
        return self._tokenizer.control_piece(token)

    def _chat(self, call: ChatCall, options: Options) -> Prepared:
        chat = self._conversations.render(call)
        if chat.ignored and self._strict:
            raise UnsupportedParameter(
                f"'{chat.ignored[0]}' changes nothing here: this model or its chat template does not read it, and "
                "STRICT_PARAMETERS is set. Leave it out.",
                param=chat.ignored[0],
            )
        tokens = self._conversation_tokens(call, chat.pieces)
        biases = dict(options.sampling.logit_bias) | dict.fromkeys(chat.banned, float("-inf"))
        prompt = self._checked(tokens, "messages", options.max_tokens)
        return Prepared(
            prompts=[prompt],
            options=replace(
                options,
                sampling=replace(options.sampling, logit_bias=tuple(biases.items())),
                constraint=chat.constraint(),
                ignored=(*options.ignored, *options.names.all(chat.ignored)),
            ),
            new_parser=chat.new_parser,
            thinking=chat.thinking,
            shown=chat.shown,
            images=chat.images,
            image_params=tuple(call.images[place].param for place in chat.images),
        )

    def _conversation_tokens(self, call: ChatCall, pieces: Sequence[str]) -> tuple[int, ...]:
        """Return the tokens of a prompt whose `pieces` have images between them."""
        first, *others = pieces
        if call.before:  # an earlier conversation, which goes on and does not begin anew
            self._check_known(call.before, "context")
            tokens = call.before + self._tokens(first.removeprefix(self._bos_text), add_special=False)
        elif others:
            tokens = self._beginning(first)
        else:
            # Most templates write BOS. A second BOS would change the position of every token.
            return self._tokens(first, add_special=not self._has_bos(first))
        for piece in others:
            tokens += (IMAGE, *self._tokens(piece, add_special=False))
        return tokens

    def _beginning(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that begins a prompt and does not end it."""
        bos, tokens = self._tokenizer.bos, self._tokens(text, add_special=False)
        if bos is None or not self._tokenizer.adds_bos or self._has_bos(text):
            return tokens
        return (bos, *tokens)

    def _has_bos(self, text: str) -> bool:
        return bool(self._bos_text) and text.startswith(self._bos_text)

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
            ignored=(*options.ignored, *_named(options, "logit_bias", unknown)),
        )

    def _with_stop_tokens(self, options: Options) -> Options:
        """Remove ids that are not tokens of this model, which are listed as ignored, or refused."""
        n = self._tokenizer.n_tokens
        unknown = [token for token in options.stop_tokens if token >= n]
        if unknown and self._strict:
            message = f"{self._no_token(unknown[0])} STRICT_PARAMETERS is set: leave the id out."
            raise UnsupportedParameter(message, param="stop_token_ids")
        return replace(
            options,
            stop_tokens=tuple(token for token in options.stop_tokens if token < n),
            ignored=(*options.ignored, *_named(options, "stop_token_ids", unknown)),
        )

    def _controls(self) -> frozenset[int]:
        """Return all control tokens. The first call looks at each token of the vocabulary."""
        with self._lock:
            if self._known_controls is None:
                piece, written = self._tokenizer.piece, self._tokenizer.control_piece
                tokens = range(self._tokenizer.n_tokens)
                self._known_controls = frozenset(token for token in tokens if not piece(token) and written(token))
            return self._known_controls

    def _completion_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            # The prompt may already begin with BOS as text. If the tokenizer adds BOS, there would be two. If it does
            # not (for example GLM with [gMask]), the text is the only one and must stay.
            if self._bos_text and self._tokenizer.adds_bos:
                prompt = prompt.removeprefix(self._bos_text)
            return self._tokens(prompt, add_special=True)
        if isinstance(prompt, MixedPrompt):
            return self._mixed_tokens(prompt)
        self._check_known(prompt, "prompt")
        return prompt

    def _mixed_tokens(self, prompt: MixedPrompt) -> tuple[int, ...]:
        """Join the tokens of texts and ids. As in llama-server, only a text that comes first gets BOS."""
        tokens: list[int] = []
        for place, part in enumerate(prompt.parts):
            if isinstance(part, int):
                self._check_known((part,), "prompt")
                tokens.append(part)
            else:
                tokens += self._completion_tokens(part) if place == 0 else self._tokens(part, add_special=False)
        return tuple(tokens)

    def _check_known(self, tokens: Sequence[int], param: str) -> None:
        n = self._tokenizer.n_tokens
        wrong = next((token for token in tokens if not 0 <= token < n), None)
        if wrong is not None:
            raise InvalidRequest(self._no_token(wrong), param=param)

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


def _named(options: Options, field: str, tokens: Sequence[int]) -> Iterable[str]:
    """Return the names of tokens that a field has in vain."""
    return options.names.all([f"{field}.{token}" for token in tokens[:MAX_IGNORED]])
