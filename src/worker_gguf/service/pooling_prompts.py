"""Turns the inputs of a model that pools into tokens: texts, and pairs of a query and a document."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from worker_gguf.errors import ContextLengthExceeded, InvalidRequest
from worker_gguf.protocol.pooling.calls import Input, Pair, PoolingCall, Truncation
from worker_gguf.service.prompts import Tokenizer

__all__ = ["PairForm", "PairTokenizer", "PoolingInput", "PoolingPrompts"]

_PLACES = re.compile(r"\{(query|document)\}")
_SHORTEN = "Shorten it, or let it be cut with truncate."
# All inputs of one request together: more would keep a thread and the engine busy for too long.
_MOST_TOKENS = 4_000_000


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

    def __init__(
        self, tokenizer: PairTokenizer, n_ctx: int, form: PairForm, *, most_tokens: int = _MOST_TOKENS
    ) -> None:
        """The inputs of one request have at most `most_tokens` together."""
        self._tokenizer = tokenizer
        self._most_tokens = most_tokens
        self._n_ctx = n_ctx
        self._form = form

    def prepare(self, call: PoolingCall, *, ranks: bool) -> list[PoolingInput]:
        """Return the tokens of each input. A model that does not rank gets both texts of a pair, one after the other.

        Raises InvalidRequest, and ContextLengthExceeded for an input that is too long.
        """
        prepared: list[PoolingInput] = []
        queries: dict[str, tuple[int, ...]] = {}
        left = self._most_tokens
        for place, given in enumerate(call.inputs):
            param = call.param if len(call.inputs) == 1 and not isinstance(given, Pair) else f"{call.param}.{place}"
            texts: tuple[Input, ...] = (given,)
            if isinstance(given, Pair) and not ranks:
                texts = (given.query, given.document)
            for text in texts:
                tokens = self._tokens(text, param, call.truncation, queries)
                left -= len(tokens)
                if left < 0:
                    message = f"The inputs have more than {self._most_tokens} tokens together. Send fewer at once."
                    raise InvalidRequest(message, param=call.param)
                prepared.append(PoolingInput(tokens, param))
        return prepared

    def _tokens(
        self, given: Input, param: str, truncation: Truncation | None, queries: dict[str, tuple[int, ...]]
    ) -> tuple[int, ...]:
        """Return the tokens of an input. `queries` has the tokens of queries, of which many documents share one."""
        match given:
            case Pair() if self._form.template is not None:
                return self._by_template(given, self._form.template, param, truncation)
            case Pair():
                if given.query not in queries:
                    queries[given.query] = self._plain(given.query)
                before, after = self._around(queries[given.query])
                return _fitted(before, self._plain(given.document), after, param, truncation, self._n_ctx)
            case str():
                tokens = self._tokenizer.tokenize(given, add_special=True, parse_special=True)
                if tokens and len(tokens) <= _limit(truncation, self._n_ctx):
                    return tuple(tokens)
                n_before, n_after = self._n_special()
                end = len(tokens) - n_after
                parts = tokens[:n_before], tokens[n_before:end], tokens[end:]
                return _fitted(*parts, param, truncation, self._n_ctx)
            case _:
                return _fitted((), self._checked(given, param), (), param, truncation, self._n_ctx)

    def _plain(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.tokenize(text, add_special=False, parse_special=False))

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

    def _around(self, query: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens before and after a document, in the form that the model was trained with."""
        tokenizer, form = self._tokenizer, self._form
        eos = tokenizer.eos if tokenizer.eos is not None else tokenizer.separator
        if form.n_between is None:  # as llama-server does
            end = _token(eos, tokenizer.adds_eos)
            between = (*end, *_token(tokenizer.separator, tokenizer.adds_separator))
        else:
            end = _token(eos if tokenizer.separator is None else tokenizer.separator, is_added=True)
            between = tuple(end) * form.n_between
        return (*_token(tokenizer.bos, tokenizer.adds_bos), *query, *between), tuple(end)

    def _by_template(self, pair: Pair, template: str, param: str, truncation: Truncation | None) -> tuple[int, ...]:
        """Return the tokens of a pair in the model's own form. To cut it, its document loses characters."""

        def tokens_with(document: str) -> tuple[int, ...]:
            texts = {"query": pair.query, "document": document}
            text = _PLACES.sub(lambda found: texts[found[1]], template)
            return tuple(self._tokenizer.tokenize(text, add_special=False, parse_special=True))

        def cut(n: int) -> str:
            at_end = truncation is None or truncation.side == "end"
            return pair.document[:n] if at_end else pair.document[len(pair.document) - n :]

        tokens, most = tokens_with(pair.document), _limit(truncation, self._n_ctx)
        if len(tokens) <= most:
            return tokens
        _check_may_be_cut(len(tokens), param, truncation, self._n_ctx)
        # The number of characters from which on the tokens are too many.
        first_over = bisect_right(range(len(pair.document)), most, key=lambda n: len(tokens_with(cut(n))))
        if first_over <= 1:
            raise _nothing_left(most, param)
        return tokens_with(cut(first_over - 1))


def _fitted(
    before: Sequence[int],
    inner: Sequence[int],
    after: Sequence[int],
    param: str,
    truncation: Truncation | None,
    n_ctx: int,
) -> tuple[int, ...]:
    """Join tokens, of which `inner` may be cut. Raises InvalidRequest, and ContextLengthExceeded if it must not be."""
    n, most = len(before) + len(inner) + len(after), _limit(truncation, n_ctx)
    if not n:
        raise InvalidRequest("The input has no tokens. Send at least one.", param=param)
    if n > most:
        _check_may_be_cut(n, param, truncation, n_ctx)
        n_kept = most - len(before) - len(after)
        if n_kept < 1:
            raise _nothing_left(most, param)
        inner = inner[:n_kept] if truncation is None or truncation.side == "end" else inner[-n_kept:]
    return (*before, *inner, *after)


def _limit(truncation: Truncation | None, n_ctx: int) -> int:
    return n_ctx if truncation is None or truncation.most is None else min(n_ctx, truncation.most)


def _check_may_be_cut(n: int, param: str, truncation: Truncation | None, n_ctx: int) -> None:
    if truncation is None:
        raise ContextLengthExceeded(n, n_ctx, param=param, hint=_SHORTEN)


def _nothing_left(most: int, param: str) -> InvalidRequest:
    message = f"The input cannot be cut to {most} tokens: what must stay has as many. Shorten the query, or allow more."
    return InvalidRequest(message, param=param)


def _token(token: int | None, is_added: bool) -> Sequence[int]:
    return (token,) if is_added and token is not None else ()
