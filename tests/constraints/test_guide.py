"""Tests of guides: thinking first, then the grammar; triggers; what is forced."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import request
from worker_gguf.constraints.guide import Guide
from worker_gguf.constraints.matcher import Grammars
from worker_gguf.engine.request import Constraint, Thinking
from worker_gguf.errors import InvalidRequest
from worker_gguf.llama.vocabulary import Vocabulary

WORD = Constraint("regex", "[a-c]{3}")
THINK = Thinking("<think>", ("</think>",))


class Writer:
    """Writes an answer under a guide, token by token, as the drawing does."""

    def __init__(self, grammars: Grammars, vocabulary: Vocabulary, **asked: Any) -> None:
        self.vocabulary = vocabulary
        self.guide = Guide(grammars, request("a", **asked))
        self.tokens: list[int] = []

    def write(self, text: str, *, most: int = 0) -> None:
        """Write a text. It must be allowed."""
        for token in self.vocabulary.tokenize(text, add_special=False, parse_special=True):
            assert self.allows(token), f"{self.vocabulary.text([token])!r} is not allowed after {self.text!r}"
            self._add(token, most)

    def allows(self, token: int) -> bool:
        guide = self.guide
        if (forced := guide.next_forced) is not None:
            return token == forced
        if guide.is_held and not guide.mask()[token // 32] >> (token % 32) & 1:
            return False
        return guide.takes(token) and not (guide.must_go_on and token in self.vocabulary.eog)

    def allows_text(self, text: str) -> bool:
        return self.allows(self.vocabulary.tokenize(text, add_special=False, parse_special=True)[0])

    def follow(self) -> None:
        """Write what is forced."""
        while (token := self.guide.next_forced) is not None:
            self._add(token, 0)

    def _add(self, token: int, most: int) -> None:
        self.tokens += [token, *self.guide.accept(token, most)]

    @property
    def text(self) -> str:
        return self.vocabulary.text([token for token in self.tokens if token not in self.vocabulary.eog])

    @property
    def has_ended(self) -> bool:
        return bool(self.tokens) and self.tokens[-1] in self.vocabulary.eog


@pytest.fixture
def write(grammars: Grammars, vocabulary: Vocabulary) -> Any:
    return lambda **asked: Writer(grammars, vocabulary, **asked)


def test_a_whole_answer_is_held_from_the_first_token_and_ended_when_it_matches(write: Any) -> None:
    answer = write(constraint=WORD)
    assert not answer.allows_text("hello")
    answer.write("abc", most=1)
    assert answer.has_ended
    assert answer.guide.n_constrained >= 1


def test_the_end_is_forced_as_the_next_token_where_none_may_be_added(write: Any) -> None:
    answer = write(constraint=WORD)
    answer.write("abc")
    assert not answer.has_ended
    answer.follow()
    assert answer.has_ended


def test_open_thinking_is_free_must_not_end_the_answer_and_comes_before_the_grammar(write: Any) -> None:
    answer = write(constraint=WORD, thinking=Thinking("<think>", ("</think>",), is_open=True))
    answer.write("Anything goes here.")
    assert answer.guide.must_go_on
    assert not answer.guide.is_held
    answer.write("</think>\n\nabc", most=1)
    assert answer.has_ended


def test_a_model_may_think_first_or_answer_at_once(write: Any) -> None:
    thinks, answers = write(constraint=WORD, thinking=THINK), write(constraint=WORD, thinking=THINK)
    assert not thinks.allows_text("hello")
    thinks.write("<think>hello</think>abc")
    answers.write("abc")
    for writer in (thinks, answers):
        writer.follow()
        assert writer.has_ended


def test_the_end_of_the_thinking_inside_a_token_begins_the_match_there(write: Any) -> None:
    answer = write(constraint=WORD, thinking=Thinking("", ("END",), is_open=True))
    table = answer.guide._grammars.table
    joined = next(token for token, piece in enumerate(table.pieces) if piece == b"ab")
    answer.guide._watch._tail = b"EN"
    assert answer.guide._watch.peek(b"D" + table.pieces[joined]) == b"ab"


@pytest.mark.parametrize("most", [0, 3, 64])
def test_a_budget_ends_the_thinking_with_the_message_and_the_end(write: Any, most: int) -> None:
    thinking = Thinking("<think>", ("</think>",), is_open=True, budget=4, message=" Enough.\n")
    answer = write(constraint=WORD, thinking=thinking)
    for token in answer.vocabulary.tokenize("one two three four five", add_special=False, parse_special=True)[:4]:
        answer._add(token, most)
    answer.follow()
    assert answer.text.endswith(" Enough.\n</think>")
    answer.write("abc", most=1)
    assert answer.has_ended


def test_a_budget_of_zero_ends_the_thinking_before_its_first_token(write: Any) -> None:
    opened = write(thinking=Thinking("<think>", ("</think>",), is_open=True, budget=0))
    opened.follow()
    assert opened.text == "</think>"
    by_itself = write(thinking=Thinking("<think>", ("</think>",), budget=0))
    by_itself.write("<think>", most=64)
    assert by_itself.text == "<think></think>"


def test_a_budget_waits_for_the_end_of_a_character(write: Any) -> None:
    answer = write(thinking=Thinking("", ("</think>",), is_open=True, budget=1))
    table = answer.guide._grammars.table
    first, second = (table.pieces.index(bytes([byte])) for byte in "é".encode())
    answer._add(first, 0)
    assert answer.guide.next_forced is None
    answer._add(second, 0)
    assert answer.guide.next_forced is not None


def test_a_trigger_begins_a_match_and_the_text_after_it_is_free_again(write: Any) -> None:
    answer = write(constraint=Constraint("regex", "[a-c]{3}", triggers=("<call>",)))
    answer.write("Free text <call>")
    assert not answer.allows_text("hello")
    answer.write("abc and free again, <call>")
    assert not answer.allows_text("hello")
    answer.write("cab")
    assert answer.guide.next_forced is None
    assert answer.allows(answer.vocabulary.eos)


def test_the_last_match_ends_the_answer(write: Any) -> None:
    answer = write(constraint=Constraint("regex", "[a-c]{3}", triggers=("<call>",), is_last=True))
    answer.write("Free <call>abc", most=1)
    assert answer.has_ended


def test_a_trigger_that_counts_only_at_the_start_is_text_elsewhere(write: Any) -> None:
    constraint = Constraint("regex", "[a-c]{3}", triggers=("<call>",), only_at_start=True)
    later, first = write(constraint=constraint), write(constraint=constraint)
    later.write("Then <call>hello")
    first.write("\n<call>")
    assert not first.allows_text("hello")
    first.write("abc<call>hello")


def test_an_open_thinking_hides_triggers(write: Any) -> None:
    constraint = Constraint("regex", "[a-c]{3}", triggers=("<call>",))
    answer = write(constraint=constraint, thinking=Thinking("<think>", ("</think>",), is_open=True))
    answer.write("I may <call>hello</think>Now <call>")
    assert not answer.allows_text("hello")


def test_a_token_that_completes_a_trigger_and_goes_on_wrongly_is_not_taken(write: Any) -> None:
    answer = write(constraint=Constraint("regex", "c", triggers=("a",)))
    table = answer.guide._grammars.table
    assert not answer.guide.takes(table.pieces.index(b"ab"))
    assert answer.guide.takes(table.pieces.index(b"ac"))
    answer._add(table.pieces.index(b"ac"), 0)
    assert answer.guide.next_forced is None
    assert not answer.guide.is_held


def test_what_does_not_compile_is_refused(grammars: Grammars) -> None:
    with pytest.raises(InvalidRequest):
        Guide(grammars, request("a", constraint=Constraint("lark", "start: nothing"), thinking=THINK))


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("budget", [1, 2, 5])
def test_a_budget_is_the_same_whoever_opens_the_thinking(write: Any, budget: int, *, is_open: bool) -> None:
    answer = write(thinking=Thinking("<think>", ("</think>",), is_open=is_open, budget=budget))
    if not is_open:
        answer.write("<think>")
    n_before = len(answer.tokens)
    while answer.guide.next_forced is None:
        answer._add(answer.vocabulary.tokenize("a", add_special=False, parse_special=False)[0], 0)
    assert len(answer.tokens) - n_before == budget


def test_tokens_with_a_whole_banned_text_are_banned_at_once(write: Any) -> None:
    answer = write(banned_texts=("AB", "q"))
    pieces = answer.guide._grammars.table.pieces
    banned = set(answer.guide.banned_tokens.tolist())
    assert banned == {n for n, piece in enumerate(pieces) if b"ab" in piece.lower() or b"q" in piece.lower()}
    assert banned
    answer.write("a")
    b = pieces.index(b"b")
    assert b not in banned
    assert not answer.guide.takes(b)


def test_a_guide_keeps_its_grammar_though_others_were_compiled_since(grammars: Grammars, write: Any) -> None:
    answer = write(constraint=Constraint("regex", "[a-c]{3}", triggers=("<call>",)))
    for n in range(70):
        grammars.grammar(Constraint("regex", f"x{{{n + 1}}}"))
    compile_, grammars._compile = grammars._compile, None  # type: ignore[assignment]
    try:
        answer.write("Free <call>")
        assert not answer.allows_text("hello")
    finally:
        grammars._compile = compile_  # type: ignore[method-assign]
