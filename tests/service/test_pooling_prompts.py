"""Tests of how inputs of a model that pools become tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from worker_gguf.errors import ContextLengthExceeded, InvalidRequest
from worker_gguf.protocol.pooling.calls import Input, Pair, PoolingCall, Truncation
from worker_gguf.service.pooling_prompts import PairForm, PoolingPrompts

CLS, SEP = 1, 2
OF_VOCABULARY = PairForm()


class Words:
    """A vocabulary of an encoder: a token for each character, between CLS and SEP."""

    n_tokens = 1000
    adds_bos = adds_separator = True
    adds_eos = False
    bos: int | None = CLS
    eos: int | None = None
    separator: int | None = SEP

    def fim_token(self, kind: str) -> int | None:
        return None

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        tokens = [10 + ord(letter) for letter in text]
        return [CLS, *tokens, SEP] if add_special else tokens

    def piece(self, token: int) -> bytes:
        return chr(token - 10).encode()

    control_piece = piece

    def text(self, tokens: Iterable[int]) -> str:
        return "".join(chr(token - 10) for token in tokens)


def prepared(*inputs: Input, n_ctx: int = 6, ranks: bool = False, form: PairForm = OF_VOCABULARY, **fields: Any) -> Any:
    prompts = PoolingPrompts(Words(), n_ctx, form)
    call = PoolingCall(inputs=inputs, param="input", **fields)
    return [(given.param, given.tokens) for given in prompts.prepare(call, ranks=ranks)]


def letters(text: str) -> tuple[int, ...]:
    return tuple(10 + ord(letter) for letter in text)


def test_a_text_has_the_special_tokens_of_the_vocabulary() -> None:
    assert prepared("ab") == [("input", (CLS, *letters("ab"), SEP))]
    assert prepared((11, 12), "a") == [("input.0", (11, 12)), ("input.1", (CLS, *letters("a"), SEP))]


def test_an_input_that_is_too_long_is_an_error_that_names_it() -> None:
    with pytest.raises(ContextLengthExceeded) as refused:
        prepared("a", "abcde")
    assert refused.value.param == "input.1"
    assert refused.value.message == (
        "This model's maximum context length is 6 tokens, but the input has 7. Shorten it, or let it be cut with "
        "truncate."
    )


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [
        (Truncation("end"), "abcd"),
        (Truncation("start"), "cdef"),
        (Truncation("end", 4), "ab"),
        (Truncation("start", 100), "cdef"),
    ],
)
def test_a_cut_text_keeps_its_special_tokens(truncation: Truncation, kept: str) -> None:
    assert prepared("abcdef", truncation=truncation) == [("input", (CLS, *letters(kept), SEP))]


def test_cut_token_ids_are_the_first_or_last_ones() -> None:
    ids = tuple(range(20, 30))
    assert prepared(ids, truncation=Truncation("end")) == [("input", ids[:6])]
    assert prepared(ids, truncation=Truncation("start", 2)) == [("input", ids[-2:])]


def test_nothing_can_be_left_of_a_text() -> None:
    with pytest.raises(InvalidRequest, match="cannot be cut to 2 tokens"):
        prepared("abcdef", truncation=Truncation("end", 2))


def test_an_id_that_is_no_token_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="1000 is not a token of this model"):
        prepared((5, 1000))


def test_a_pair_is_a_query_and_a_document_for_a_ranker() -> None:
    assert prepared(Pair("q", "d"), ranks=True) == [("input.0", (CLS, *letters("q"), SEP, *letters("d")))]


@pytest.mark.parametrize("n_between", [1, 2])
def test_a_pair_in_the_published_form_ends_with_a_separator(n_between: int) -> None:
    (given,) = prepared(Pair("q", "d"), ranks=True, form=PairForm(n_between=n_between))
    assert given[1] == (CLS, *letters("q"), *[SEP] * n_between, *letters("d"), SEP)


def test_a_cut_document_keeps_the_separator_after_it() -> None:
    form, truncation = PairForm(n_between=1), Truncation("end")
    (given,) = prepared(Pair("q", "defgh"), ranks=True, form=form, truncation=truncation)
    assert given[1] == (CLS, *letters("q"), SEP, *letters("de"), SEP)


def test_a_ranker_may_have_its_own_form() -> None:
    pair = Pair("{document}", "d")
    (given,) = prepared(pair, ranks=True, n_ctx=99, form=PairForm("<{query}|{document}>"))
    assert given[1] == letters("<{document}|d>")


def test_the_texts_of_a_pair_have_vectors_of_their_own() -> None:
    assert prepared(Pair("q", "d")) == [
        ("input.0", (CLS, *letters("q"), SEP)),
        ("input.0", (CLS, *letters("d"), SEP)),
    ]


@pytest.mark.parametrize(("side", "kept"), [("end", "def"), ("start", "fgh")])
def test_the_document_of_a_pair_is_cut(side: Any, kept: str) -> None:
    cut = prepared(Pair("q", "defgh"), ranks=True, truncation=Truncation(side))
    assert cut == [("input.0", (CLS, *letters("q"), SEP, *letters(kept)))]


def test_a_query_that_leaves_no_room_for_a_document_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="Shorten the query"):
        prepared(Pair("abcdefgh", "d"), ranks=True, truncation=Truncation("end"))


def test_a_document_is_cut_by_its_tokens_also_where_they_are_unknown() -> None:
    unknown = 3

    class Unknown(Words):
        def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
            tokens = super().tokenize(text, add_special=add_special, parse_special=parse_special)
            return [unknown if token == 10 + ord("?") else token for token in tokens]

    call = PoolingCall(inputs=(Pair("q", "????????"),), param="input", truncation=Truncation("end"))
    (given,) = PoolingPrompts(Unknown(), 6, PairForm()).prepare(call, ranks=True)
    assert given.tokens == (CLS, *letters("q"), SEP, unknown, unknown, unknown)


def test_a_query_is_tokenised_once_for_all_documents() -> None:
    texts: list[str] = []

    class Counting(Words):
        def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
            texts.append(text)
            return super().tokenize(text, add_special=add_special, parse_special=parse_special)

    call = PoolingCall(inputs=(Pair("q", "a"), Pair("q", "b")), param="input")
    PoolingPrompts(Counting(), 6, PairForm()).prepare(call, ranks=True)
    assert texts == ["q", "a", "b"]


def test_a_pair_in_the_form_of_the_model_is_cut_to_what_fits() -> None:
    (given,) = prepared(
        Pair("q", "abcdef"), ranks=True, n_ctx=7, form=PairForm("<{query}|{document}>"), truncation=Truncation("start")
    )
    assert given[1] == letters("<q|def>")


def test_all_inputs_together_have_a_limit() -> None:
    call = PoolingCall(inputs=("ab", "ab", "ab"), param="input")
    prompts = PoolingPrompts(Words(), 6, PairForm(), most_tokens=10)
    with pytest.raises(InvalidRequest, match="more than 10 tokens together"):
        prompts.prepare(call, ranks=False)
