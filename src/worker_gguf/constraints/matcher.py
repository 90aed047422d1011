"""Compiled grammars, and matchers that follow one answer token by token."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worker_gguf.constraints.grammar import compiled_text, reason, unusable
from worker_gguf.constraints.tokens import TokenTable, make_tokenizer
from worker_gguf.engine.request import Constraint, GrammarKind
from worker_gguf.errors import InvalidRequest

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["Grammar", "Grammars", "Matcher"]

_Key = tuple[GrammarKind, str, bool, str | None]

_MOST_KEPT = 64
# What llguidance may spend on the automaton of a grammar and on the first text that is the only one to match. A regular
# expression of 16 Ki characters takes 32,000, a text of 64 Ki 130,000 and 0.1 s. Schemas, also in Lark, may take its
# default, a million.
_FUEL = {"regex": 250_000, "gbnf": 250_000, "choice": 250_000}
# A model usually puts some whitespace between its thinking and its answer.
_AFTER_THINKING = "start: {opening}SPACE? @body\nSPACE: /[ \\t\\r\\n]{{1,8}}/\n"


class Matcher:
    """Follows one text. For one thread at a time."""

    def __init__(self, native: LLMatcher, param: str | None = None) -> None:
        """`param` is the field of the request's body that errors name."""
        self._native = native
        self._param = param

    @property
    def has_ended(self) -> bool:
        """The text matches, and nothing can follow."""
        return self._native.is_stopped()

    def take(self, token: int) -> None:
        """Add a token. Raises InvalidRequest if it does not match or the grammar is too complex."""
        if not self._native.consume_token(token):
            raise self._stuck()

    def takes_all(self, tokens: Sequence[int]) -> bool:
        """Add tokens if all of them match. Returns whether they do. Otherwise the matcher must not be used again."""
        return self._native.try_consume_tokens(list(tokens)) == len(tokens)

    def forced(self) -> list[int]:
        """Return the tokens that must come next, which the matcher does not add."""
        return self._native.compute_ff_tokens()

    def fill(self, address: int, n_bytes: int) -> None:
        """Write the mask of the next token to memory: one bit for each token, the lowest first.

        Releases the interpreter lock meanwhile. Raises InvalidRequest if no token can follow.
        """
        self._native.unsafe_compute_mask_ptr(address, n_bytes)
        if self._native.is_error():
            raise self._stuck()

    def _stuck(self) -> InvalidRequest:
        why = reason(self._native.get_error())
        return InvalidRequest(f"The answer cannot go on as the grammar wants: {why}.", param=self._param)


class Grammar:
    """A compiled grammar. Thread-safe."""

    def __init__(self, native: LLMatcher, param: str | None) -> None:
        self._native = native
        self._param = param

    def matcher(self) -> Matcher:
        """Return a matcher at the beginning of a text."""
        return Matcher(self._native.deep_copy(), self._param)


class Grammars:
    """The grammars of one model, compiled once and kept for a while. Thread-safe."""

    def __init__(self, table: TokenTable) -> None:
        """This takes 0.1 to 0.3 s for 128k tokens."""
        self.table = table
        self._tokenizer: LLTokenizer = make_tokenizer(table)
        self._compiled: OrderedDict[_Key, LLMatcher] = OrderedDict()
        self._with_texts: OrderedDict[tuple[str, ...], NDArray[np.int32]] = OrderedDict()
        self._lock = threading.Lock()

    def grammar(self, constraint: Constraint, opening: str | None = None) -> Grammar:
        """Return the grammar of a constraint. Compiles it unless it is known.

        With `opening`, whitespace may come first, or this text alone instead of the constraint; "" means only the
        whitespace. Raises InvalidRequest.
        """
        key = (constraint.kind, constraint.grammar, constraint.is_lenient, opening)
        with self._lock:
            if (known := self._compiled.get(key)) is not None:
                self._compiled.move_to_end(key)
        if known is None:
            known = self._compile(constraint, opening)
            with self._lock:
                self._compiled[key] = known
                if len(self._compiled) > _MOST_KEPT:
                    self._compiled.popitem(last=False)
        return Grammar(known, constraint.param)

    def tokens_with(self, texts: tuple[str, ...]) -> NDArray[np.int32]:
        """Return the tokens that have one of these texts in them, in upper or lower case of ASCII letters."""
        with self._lock:
            found = self._with_texts.get(texts)
        if found is None:
            raw = [text.encode().lower() for text in texts]
            pieces = (piece.lower() for piece in self.table.pieces)
            ids = [token for token, piece in enumerate(pieces) if any(text in piece for text in raw)]
            found = np.array(ids, np.int32)
            with self._lock:
                self._with_texts[texts] = found
                if len(self._with_texts) > _MOST_KEPT:
                    self._with_texts.popitem(last=False)
        return found

    def tokens_of(self, raw: bytes) -> list[int]:
        """Return tokens with these bytes."""
        return self._tokenizer.tokenize_bytes(raw)

    def tokens_of_text(self, text: str) -> list[int]:
        """Return the tokens of a text, in which control tokens are written out."""
        return self._tokenizer.tokenize_str(text, parse_special=True)

    def _compile(self, constraint: Constraint, opening: str | None) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        try:
            text = compiled_text(constraint)
        except InvalidRequest as error:
            raise InvalidRequest(error.message, param=constraint.param) from None
        if opening is not None:
            text = _opened(text, self._written(opening))
        # Messages of llguidance would otherwise quote the text so far, which must not reach the log.
        limits = LLParserLimits(initial_lexer_fuel=_FUEL.get(constraint.kind), verbose_errors=False)
        native = LLMatcher(self._tokenizer, text, log_level=0, limits=limits)
        first = native.deep_copy()
        first.compute_bitmask()  # an error if nothing matches
        if forced := first.compute_ff_tokens():
            first.consume_token(forced[0])  # an error if the forced text is too long
        if first.is_error():
            raise InvalidRequest(unusable(constraint, first.get_error()).message, param=constraint.param)
        return native

    def _written(self, text: str) -> str:
        """Return a text as Lark writes it: a control token by its id."""
        if not text:
            return ""
        tokens = self.tokens_of_text(text)
        if len(tokens) == 1 and tokens[0] in self.table.controls:
            return f"<[{tokens[0]}]>"
        return json.dumps(text)


def _opened(text: str, opening: str) -> str:
    """Put an optional beginning before a grammar."""
    try:
        body = json.loads(text)["grammars"]
    except ValueError:
        body = [{"lark_grammar": text}]
    first = {"lark_grammar": _AFTER_THINKING.format(opening=f"{opening} | " if opening else "")}
    return json.dumps({"grammars": [first, {**body[0], "name": "body"}, *body[1:]]})
