"""Tests of prompts that fill a gap: the order of their parts, and what is left out where the context is short."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.service.test_prompts import BOS, Letters, prompts
from worker_gguf.errors import ContextLengthExceeded, UnsupportedParameter
from worker_gguf.protocol.calls import Defaults, ExtraText, InfillCall
from worker_gguf.protocol.llama_server.requests import parse_infill
from worker_gguf.protocol.openai.requests import parse_completion
from worker_gguf.service.infill import infill_prompt

PRE, SUF, MID, REP, SEP = 290, 291, 292, 293, 294
MARKS = {"pre": PRE, "suf": SUF, "mid": MID}
FILES = MARKS | {"rep": REP, "sep": SEP}


def of(text: str) -> tuple[int, ...]:
    return tuple(10 + ord(letter) for letter in text)


def call(**fields: Any) -> InfillCall:
    return parse_infill({"input_prefix": "ab", "input_suffix": "cd", **fields}, Defaults())


def tokens_of(asked: InfillCall, *, n_ctx: int = 1000, **tokenizer: Any) -> tuple[int, ...]:
    return infill_prompt(asked, Letters(**{"fim": MARKS, **tokenizer}), n_ctx).tokens


def test_the_text_before_the_gap_comes_first_then_the_text_after_it() -> None:
    assert tokens_of(call()) == (BOS, PRE, *of("ab"), SUF, *of("cd"), MID)
    assert tokens_of(call(), adds_bos=False) == (PRE, *of("ab"), SUF, *of("cd"), MID)


def test_the_answer_goes_on_after_what_the_gap_begins_with() -> None:
    assert tokens_of(call(prompt="xy")) == (BOS, PRE, *of("abxy"), SUF, *of("cd"), MID)


def test_the_text_after_the_gap_comes_first_for_models_that_were_trained_so() -> None:
    assert tokens_of(replace(call(), suffix_first=True)) == (BOS, SUF, *of("cd"), PRE, *of("ab"), MID)


def test_names_of_special_tokens_count_only_in_what_the_gap_begins_with() -> None:
    asked = call(input_prefix="<s>", input_suffix="<s>", prompt="<s>")
    assert tokens_of(asked) == (BOS, PRE, *of("<s>"), BOS, SUF, *of("<s>"), MID)


def test_extra_texts_come_first_as_files_of_a_repository() -> None:
    extra = [{"text": "x", "filename": "f.py"}, {"text": "y"}]
    head = (REP, *of("myproject\n"), SEP, *of("f.py\nx"), SEP, *of("tmp\ny"), SEP, *of("filename\n"))
    assert tokens_of(call(input_extra=extra), fim=FILES) == (*head, BOS, PRE, *of("ab"), SUF, *of("cd"), MID)


def test_without_a_token_for_files_extra_texts_are_snippets() -> None:
    head = of("\n\n--- snippet ---\n\nx")
    assert tokens_of(call(input_extra=[{"text": "x"}])) == (*head, BOS, PRE, *of("ab"), SUF, *of("cd"), MID)


def test_the_suffix_of_a_completion_makes_a_prompt_without_a_repository() -> None:
    asked = parse_completion({"prompt": "ab", "suffix": "cd"}, Defaults())
    prepared = prompts(Letters(fim=FILES)).prepare(asked)
    assert prepared.prompts == [(BOS, PRE, *of("ab"), SUF, *of("cd"), MID)]
    assert not prepared.is_cut


def test_a_short_context_keeps_what_is_nearest_to_the_gap() -> None:
    """Four tokens are the answer's, and four mark the parts: 16 of 24 are left."""
    asked = call(input_prefix="a" * 30 + "b", input_suffix="c" + "d" * 30, n_predict=4)
    prompt = infill_prompt(asked, Letters(fim=MARKS), 24)
    assert prompt.tokens == (BOS, PRE, *of("a" * 11 + "b"), SUF, *of("cddd"), MID)
    assert prompt.is_cut


@pytest.mark.parametrize(("n_prefix", "n_suffix", "kept"), [(2, 30, (2, 14)), (30, 2, (14, 2)), (8, 8, (8, 8))])
def test_a_short_text_leaves_its_room_to_the_other(n_prefix: int, n_suffix: int, kept: tuple[int, int]) -> None:
    asked = call(input_prefix="a" * n_prefix, input_suffix="d" * n_suffix, n_predict=4)
    tokens = tokens_of(asked, n_ctx=24)
    assert (tokens.count(*of("a")), tokens.count(*of("d"))) == kept


def test_extra_texts_get_the_room_that_is_left_and_lose_their_beginning() -> None:
    asked = call(input_extra=[{"text": "x" * 30 + "yz"}], n_predict=4)
    prompt = infill_prompt(asked, Letters(fim=MARKS), 22)
    assert prompt.tokens == (*of("x" * 8 + "yz"), BOS, PRE, *of("ab"), SUF, *of("cd"), MID)
    assert prompt.is_cut


def test_an_answer_may_have_half_of_the_context_and_a_quarter_if_it_has_no_length() -> None:
    long = call(input_prefix="a" * 100)
    assert len(tokens_of(replace(long, options=replace(long.options, max_tokens=90)), n_ctx=40)) == 20
    assert len(tokens_of(replace(long, options=replace(long.options, max_tokens=None)), n_ctx=40)) == 30


def test_what_the_gap_begins_with_is_never_cut() -> None:
    with pytest.raises(ContextLengthExceeded):
        prompts(Letters(fim=MARKS), n_ctx=20).prepare(call(prompt="x" * 30))


def test_the_suffix_of_a_completion_is_never_cut() -> None:
    with pytest.raises(ContextLengthExceeded):
        prompts(Letters(fim=MARKS), n_ctx=20).prepare(parse_completion({"prompt": "a", "suffix": "b" * 30}, Defaults()))


@pytest.mark.parametrize("missing", ["pre", "suf", "mid"])
def test_a_model_without_the_tokens_says_so(missing: str) -> None:
    tokenizer = Letters(fim={kind: token for kind, token in MARKS.items() if kind != missing})
    with pytest.raises(UnsupportedParameter, match="cannot fill gaps") as refused:
        infill_prompt(call(), tokenizer, 100)
    assert refused.value.param == "suffix"


def test_the_text_of_the_prompt_has_its_special_tokens() -> None:
    made = prompts(Letters())
    completion = parse_completion({"prompt": "ab", "echo": True}, Defaults())
    assert made.repeated(completion, made.prepare(completion)) == ["ab"]
    filling = prompts(Letters(fim=MARKS))
    assert filling.repeated(call(), filling.prepare(call())) == [
        f"<s>{chr(PRE - 10)}ab{chr(SUF - 10)}cd{chr(MID - 10)}"
    ]
    plain = replace(call(), shows_prompt=False, extra=(ExtraText("x"),))
    assert filling.repeated(plain, filling.prepare(plain)) == []
