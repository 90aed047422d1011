"""Turns the inputs of a model that pools into tokens: texts, and pairs of a query and a document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from worker_gguf.errors import ContextLengthExceeded, InvalidRequest
from worker_gguf.protocol.pooling.calls import Input, Pair, PoolingCall, Truncation
from worker_gguf.service.prompts import Tokenizer

__all__ = ["PairForm", "PairTokenizer", "PoolingInput", "PoolingPrompts"]

_PLACES = re.compile(r"\{(query|document)\}")
_SHORTEN = "Shorten it, or send truncate."


class PairTokenizer(Tokenizer, Protocol):
    """A vocabulary that also knows what stands around two texts. Thread-safe."""

    adds_eos: bool
    adds_separator: bool

    @property
    def bos(self) -> int | None: ...

    @property
    def eos(self) -> int | None: ...

    @property
    def separator(self) -> int | None: ...


class PairForm(Struct, frozen=True):
    """How a ranker reads a query and a document.

    `template` has `{query}` and `{document}`. `n_between` is the number of separators between the texts, of which
    another one ends the pair. None for both means the special tokens that the vocabulary adds.
    """

    template: str | None = None
    n_between: int | None = None


class PoolingInput(Struct, frozen=True):
    """The tokens of one input. `param` is its place in the request."""

    tokens: tuple[int, ...]
    param: str


class PoolingPrompts:
    """Prepares inputs for one model, which takes at most `n_ctx` tokens of each. Thread-safe."""

    def __init__(self, tokenizer: PairTokenizer, n_ctx: int, form: PairForm) -> None:
        self._tokenizer = tokenizer
        self._n_ctx = n_ctx
        self._form = form

    def prepare(self, call: PoolingCall, *, ranks: bool) -> list[PoolingInput]:
        """Return the tokens of each input. A model that does not rank gets both texts of a pair, one after the other.

        Raises InvalidRequest, and ContextLengthExceeded for an input that is too long.
        """
        prepared: list[PoolingInput] = []
        for place, given in enumerate(call.inputs):
            param = call.param if len(call.inputs) == 1 and not isinstance(given, Pair) else f"{call.param}.{place}"
            texts: tuple[Input, ...] = (given,)
            if isinstance(given, Pair) and not ranks:
                texts = (given.query, given.document)
            prepared += (PoolingInput(self._tokens(text, param, call.truncation), param) for text in texts)
        return prepared

    def _tokens(self, given: Input, param: str, truncation: Truncation | None) -> tuple[int, ...]:
        most = self._n_ctx
        if truncation is not None and truncation.most is not None:
            most = min(most, truncation.most)
        match given:
            case Pair():
                tokens = self._pair(given)
            case str():
                tokens = self._text(given)
            case _:
                tokens = self._checked(given, param)
        if not tokens:
            raise InvalidRequest("The input has no tokens. Send at least one.", param=param)
        if len(tokens) <= most:
            return tokens
        if truncation is None:
            raise ContextLengthExceeded(len(tokens), most, param=param, hint=_SHORTEN)
        if isinstance(given, Pair):
            return self._short_pair(given, param, truncation, most)
        n_before, n_after = self._n_special() if isinstance(given, str) else (0, 0)
        kept = most - n_before - n_after
        if kept < 1:
            raise ContextLengthExceeded(len(tokens), most, param=param, hint="Nothing of it could be kept.")
        end = len(tokens) - n_after
        inner = tokens[n_before:end]
        inner = inner[:kept] if truncation.side == "end" else inner[-kept:]
        return (*tokens[:n_before], *inner, *tokens[end:])

    def _text(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.tokenize(text, add_special=True, parse_special=True))

    def _n_special(self) -> tuple[int, int]:
        """Return how many special tokens the vocabulary puts before a text, and how many after it."""
        special = self._tokenizer.tokenize("", add_special=True, parse_special=True)
        n_before = 1 if self._tokenizer.adds_bos and special else 0
        return n_before, len(special) - n_before

    def _checked(self, tokens: tuple[int, ...], param: str) -> tuple[int, ...]:
        n = self._tokenizer.n_tokens
        for token in tokens:
            if not 0 <= token < n:
                message = f"{token} is not a token of this model, whose ids go from 0 to {n - 1}."
                raise InvalidRequest(message, param=param)
        return tokens

    def _pair(self, pair: Pair) -> tuple[int, ...]:
        """Return the tokens of a pair in the form that the model was trained with."""
        tokenizer, form = self._tokenizer, self._form
        if form.template is not None:
            texts = {"query": pair.query, "document": pair.document}
            text = _PLACES.sub(lambda found: texts[found[1]], form.template)
            return tuple(tokenizer.tokenize(text, add_special=False, parse_special=True))
        query, document = (
            tokenizer.tokenize(text, add_special=False, parse_special=False) for text in (pair.query, pair.document)
        )
        eos = tokenizer.eos if tokenizer.eos is not None else tokenizer.separator
        if form.n_between is None:  # as llama-server does
            end = _token(eos, tokenizer.adds_eos)
            between = (*end, *_token(tokenizer.separator, tokenizer.adds_separator))
        else:
            end = _token(eos if tokenizer.separator is None else tokenizer.separator, is_added=True)
            between = tuple(end) * form.n_between
        return (*_token(tokenizer.bos, tokenizer.adds_bos), *query, *between, *document, *end)

    def _short_pair(self, pair: Pair, param: str, truncation: Truncation, most: int) -> tuple[int, ...]:
        """Return the tokens of a pair whose document is cut so that at most `most` are left."""
        tokenizer = self._tokenizer
        document = tokenizer.tokenize(pair.document, add_special=False, parse_special=False)
        tokens = self._pair(pair)
        while len(tokens) > most:
            n_kept = len(document) - (len(tokens) - most)
            if n_kept < 1:
                raise ContextLengthExceeded(len(tokens), most, param=param, hint="Shorten the query.")
            document = document[:n_kept] if truncation.side == "end" else document[-n_kept:]
            # Cut texts may have other tokens at their ends, so the whole is looked at again.
            tokens = self._pair(Pair(pair.query, tokenizer.text(document)))
        return tokens


def _token(token: int | None, is_added: bool) -> Sequence[int]:
    return (token,) if is_added and token is not None else ()
