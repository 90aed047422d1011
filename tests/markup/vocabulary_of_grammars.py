"""A vocabulary for llguidance in which the marks of calls are control tokens, and what a grammar allows in it."""

from __future__ import annotations

import ctypes
import random
import re
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from tests.shared_case import SHARED
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.request import Constraint
from worker_gguf.llama import backend
from worker_gguf.llama.vocabulary import Vocabulary
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.parser import AnswerParser

__all__ = ["CONTROL", "GrammarVocabulary", "after_thinking", "may_end_early", "published_vocabularies", "unmatched"]

# The marks that are control tokens in the files of their models.
CONTROL = (
    "[TOOL_CALLS] [CALL_ID] [ARGS] [THINK] [/THINK] <｜tool▁calls▁begin｜> <｜tool▁calls▁end｜> <｜tool▁call▁begin｜> "
    "<｜tool▁call▁end｜> <｜tool▁sep｜> <|tool_calls_section_begin|> <|tool_calls_section_end|> <|tool_call_begin|> "
    "<|tool_call_end|> <|tool_call_argument_begin|> <|open|> <|close|> <|sep|> <|python_start|> <|python_end|> "
    "<|start|> <|channel|> <|message|> <|end|> <|call|> <|return|> <|constrain|> <|tool_call_start|> "
    "<|tool_call|> <|/tool_call|> <|START_ACTION|> <|END_ACTION|> <|python_tag|>"
).split()
# Tokens that end texts and values, without which a random answer would never end.
_ENDING = ' " } ] ) \' "} </ > \n</ <| , 1 a { : _ >\n \n |> |"|> "| 0 '.split(" ")


def published_vocabularies() -> list[Path]:
    """Return the files of published vocabularies that put no space before the texts that they tokenise."""
    return [path for path in sorted((SHARED / "vocab").glob("ggml-vocab-*.gguf")) if "spm" not in path.name]


class GrammarVocabulary:
    """The vocabulary of a model's file, and after its tokens one for each of CONTROL."""

    def __init__(self, path: Path = MODEL_PATH) -> None:
        backend.start(uses_gpus=False)
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert model is not None
        self._vocabulary = Vocabulary(model, lambda: llama_cpp.llama_model_free(model))
        pieces = [self._piece(token) for token in range(self._vocabulary.n_tokens)]
        self.ids = {mark: len(pieces) + number for number, mark in enumerate(CONTROL)}
        self._pieces = [*pieces, *(b"\xff" + mark.encode() for mark in CONTROL)]
        function = ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
        self.tokenizer: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
            tokens=self._pieces,
            vocab_ptr=self._vocabulary.pointer,
            tokenize_fptr=function,
            eos_token=sorted(self._vocabulary.eog),
            slices=None,
        )
        self._marks = re.compile("|".join(re.escape(mark) for mark in sorted(CONTROL, key=len, reverse=True)))
        self._bits = allocate_token_bitmask(1, len(self._pieces))
        ending = {text.encode() for text in _ENDING}
        self._ends = np.array([piece in ending or piece[:1] == b"\xff" for piece in self._pieces])

    def close(self) -> None:
        self._vocabulary.close()

    def token_of(self, text: str) -> int | None:
        return self.ids.get(text)

    def tokens(self, text: str, *, has_control: bool = True) -> list[int]:
        """Tokenise a text. With `has_control`, a mark in it is its control token."""
        tokens: list[int] = []
        at = 0
        for match in self._marks.finditer(text) if has_control else ():
            tokens += [*self._plain(text[at : match.start()]), self.ids[match.group()]]
            at = match.end()
        return [*tokens, *self._plain(text[at:])]

    def text(self, tokens: Sequence[int]) -> str:
        return b"".join(self._pieces[token].removeprefix(b"\xff") for token in tokens).decode("utf-8", "replace")

    def matcher(self, constraint: Constraint) -> LLMatcher:
        matcher = LLMatcher(self.tokenizer, constraint.grammar, log_level=0)
        assert not matcher.is_error(), f"{matcher.get_error()}\n{constraint.grammar}"
        return matcher

    def accepts(self, constraint: Constraint, text: str, *, has_control: bool = True) -> bool:
        """Whether the grammar allows this text and nothing has to follow it."""
        matcher = self.matcher(constraint)
        tokens = self.tokens(text, has_control=has_control)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def match(self, matcher: LLMatcher, text: str, *, has_control: bool) -> int | None:
        """Return where the match that begins at the text's beginning ends, None if there is none."""
        matcher.reset()
        at = 0
        while at < len(text) and not matcher.is_stopped():
            mark = self._marks.match(text, at) if has_control else None
            piece = mark.group() if mark else text[at]
            tokens = self.tokens(piece, has_control=mark is not None)
            if matcher.try_consume_tokens(tokens) < len(tokens):
                break
            at += len(piece)
        return at if matcher.is_accepting() else None

    def random_answer(self, matcher: LLMatcher, seed: int, form: CallFormat, n_tokens: int = 400) -> str | None:
        """Draw tokens at random from those that the grammar allows. None if the answer is not complete by then.

        The marks of the format are often tried, because long ones would hardly ever come up.
        """
        draw = random.Random(seed)
        marks = [self.tokens(mark) for mark in _marks_of(form)]
        tokens: list[int] = []
        while len(tokens) < n_tokens:
            if matcher.is_stopped() or (matcher.is_accepting() and draw.random() < 0.4):
                assert not matcher.is_error(), matcher.get_error()
                return self.text(tokens)
            mark = draw.choice(marks)
            if draw.random() < 0.3 and matcher.validate_tokens(mark) == len(mark):
                matcher.consume_tokens(mark)
                tokens += mark
                continue
            allowed = self._allowed(matcher)
            ends = allowed[self._ends[allowed]]
            assert len(allowed), f"nothing may follow {self.text(tokens)!r}"
            token = int(draw.choice(ends if len(ends) and draw.random() < 0.8 else allowed))
            assert matcher.consume_token(token), matcher.get_error()
            tokens.append(token)
        return None

    def _allowed(self, matcher: LLMatcher) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        fill_next_token_bitmask(matcher, self._bits, 0)
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: len(self._pieces)]
        bits[list(self._vocabulary.eog)] = 0
        return np.flatnonzero(bits)

    def _plain(self, text: str) -> list[int]:
        return self._vocabulary.tokenize(text, add_special=False, parse_special=False)

    def _piece(self, token: int) -> bytes:
        piece = self._vocabulary.control_piece(token)
        attributes = llama_cpp.llama_vocab_get_attr(self._vocabulary.pointer, token)
        return b"\xff" + piece if attributes & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL else piece


def _marks_of(form: CallFormat) -> list[str]:
    values = form.values
    ends = [values.value_end, values.value_end + form.call_end, values.key_start] if values else [form.string_quote]
    return [mark for mark in (*ends, form.call_end, form.section_end, '"}', "}") if mark]


def may_end_early(form: CallFormat, answer: str, n_arguments: int) -> bool:
    """Whether the mark at the end of a value may stand inside a JSON value, where the parser takes it for the end."""
    end = form.values.value_end.strip() if form.values and not form.values.key_close else ""
    return bool(end) and answer.count(end) > n_arguments


def after_thinking(form: CallFormat, parser: AnswerParser, text: str) -> str:
    """Return the part of an answer after its thinking. The parser must be a new one."""
    if form.calls_in_reasoning and not any(end.strip() in text for end in form.reasoning_ends):
        return text
    thinks_until = 0
    for number, character in enumerate(text):
        parser.feed(character)
        if parser.is_reasoning:
            thinks_until = number + 1
    ends = [end.strip() for end in (form.channels.ends if form.channels else form.reasoning_ends)]
    # The parser knows an end only by what follows it.
    behind = len(form.channels.start) if form.channels else 0
    found = [at + len(end) for end in ends if (at := text.find(end, max(thinks_until - len(end) - behind, 0))) >= 0]
    return text[min(found) :] if thinks_until and found else text


def unmatched(vocabulary: GrammarVocabulary, constraint: Constraint, text: str, *, has_control: bool) -> str | None:
    """Find each trigger and match what follows it. Return what did not match, or None if all calls did."""
    matcher = vocabulary.matcher(constraint)
    if not constraint.triggers:
        return None if vocabulary.match(matcher, text, has_control=has_control) == len(text) else text
    ends = [at + len(trigger) for trigger in constraint.triggers if (at := text.find(trigger)) >= 0]
    if constraint.only_at_start:
        ends = [len(t) + text.index(t) for t in constraint.triggers if text.strip().startswith(t)]
    if not ends:
        return f"none of {constraint.triggers} in {text!r}"
    while ends:
        text = text[min(ends) :]
        end = vocabulary.match(matcher, text, has_control=has_control)
        if end is None:
            return text
        text = text[end:]
        ends = [at + len(trigger) for trigger in constraint.triggers if (at := text.find(trigger)) >= 0]
    return None
