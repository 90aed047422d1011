"""Tests of seeds, sampler names and biases."""

from __future__ import annotations

import math
from typing import Any

import pytest
from msgspec.structs import fields

from worker_gguf.engine.request import SAMPLERS, SamplingParams
from worker_gguf.errors import InvalidRequest
from worker_gguf.protocol.bodies import Common, CompletionBody
from worker_gguf.protocol.sampling import MAX_BIASES, read_sampling


def sampling(**given: Any) -> SamplingParams:
    return read_sampling(CompletionBody.model_validate({"prompt": "x", **given}), SamplingParams())[0]


def param_of_error(**given: Any) -> str | None:
    with pytest.raises(InvalidRequest) as refused:
        sampling(**given)
    return refused.value.param


def test_every_sampling_parameter_can_be_requested() -> None:
    assert {field.name for field in fields(SamplingParams)} <= set(Common.model_fields)


@pytest.mark.parametrize(
    ("sent", "folded"),
    [(0, 0), (42, 42), (-1, None), (2**32 - 1, None), (2**32 - 2, 2**32 - 2), (-2, 2**32 - 3), (2**32, 1)],
)
def test_seed_is_folded_to_32_bits(sent: int, folded: int | None) -> None:
    assert sampling(seed=sent).seed == folded


@pytest.mark.parametrize("seed", [-(2**63), 2**64 - 1, 10**18])
def test_a_folded_seed_is_never_the_random_one(seed: int) -> None:
    folded = sampling(seed=seed).seed
    assert folded is not None
    assert 0 <= folded < 2**32 - 1


@pytest.mark.parametrize(
    "samplers",
    [
        ["top_k", "typ_p", "temperature"],
        ["top-k", "typical_p", "temp"],
        ["TOPK", "typical", "Temperature"],
        "top_k;typ_p;temperature",
        "top_k; typical_p ;temp;",
        "kyt",
    ],
)
def test_spellings_of_samplers(samplers: Any) -> None:
    assert sampling(samplers=samplers).samplers == ("top_k", "typ_p", "temperature")


def test_a_name_goes_before_letters() -> None:
    # t, e, m and p are letters of samplers as well.
    assert sampling(samplers="temp").samplers == ("temperature",)


def test_every_sampler_may_be_named() -> None:
    assert sampling(samplers=list(SAMPLERS)).samplers == SAMPLERS
    assert sampling(samplers=[]).samplers == sampling(samplers=";").samplers == ()


def test_bad_samplers() -> None:
    assert param_of_error(samplers=["top_k", "magic"]) == "samplers.1"
    assert param_of_error(samplers="top_k;magic") == "samplers"
    assert param_of_error(samplers=["top_k", "top-k"]) == "samplers"


def test_bias_as_an_object() -> None:
    body = CompletionBody.model_validate({"prompt": "x", "logit_bias": {"5": 1, "17": -100, " cat": 2.5}})
    read, texts = read_sampling(body, SamplingParams())
    assert read.logit_bias == ((5, 1.0), (17, -100.0))
    assert texts == ((" cat", 2.5),)


def test_bias_as_a_list() -> None:
    body = CompletionBody.model_validate({"prompt": "x", "logit_bias": [[5.0, 1], [17, False], ["17", False]]})
    read, texts = read_sampling(body, SamplingParams())
    assert read.logit_bias == ((5, 1.0), (17, -math.inf))
    # In a list the id is a number; a string is a text, digits or not.
    assert texts == (("17", -math.inf),)


@pytest.mark.parametrize("token", [-5, 199_999, 2**31, 10**19])
def test_any_integer_is_accepted_as_a_token_before_the_vocabulary_is_known(token: int) -> None:
    assert sampling(logit_bias={str(token): 1}).logit_bias == ((token, 1.0),)
    assert sampling(logit_bias=[[token, 1]]).logit_bias == ((token, 1.0),)


@pytest.mark.parametrize(
    ("logit_bias", "param"),
    [
        ({"5": "x"}, "logit_bias"),
        ({"5": True}, "logit_bias"),
        ({"5": None}, "logit_bias"),
        ({"5": 1e7}, "logit_bias"),
        ({"5": math.nan}, "logit_bias"),
        ({"5": 10**400}, "logit_bias"),
        ({"": 1}, "logit_bias"),
        ([5], "logit_bias.0"),
        ([[5, 1], [5]], "logit_bias.1"),
        ([[True, 1]], "logit_bias.0"),
        ([[5.5, 1]], "logit_bias.0"),
        ([["", 1]], "logit_bias.0"),
        ([[1, 1]] * (MAX_BIASES + 1), "logit_bias"),
    ],
)
def test_bad_bias(logit_bias: Any, param: str) -> None:
    assert param_of_error(logit_bias=logit_bias) == param


def test_breakers_are_kept_in_order() -> None:
    assert sampling(dry_sequence_breakers=["\n", "b"]).dry_sequence_breakers == ("\n", "b")
    assert sampling(dry_sequence_breakers=[]).dry_sequence_breakers == ()


@pytest.mark.parametrize("text", ['["\\n", "b"]', '"\\n", "b"', ' [ "\\n","b" ] '])
def test_breakers_as_the_text_of_a_list(text: str) -> None:
    assert sampling(dry_sequence_breakers=text).dry_sequence_breakers == ("\n", "b")


@pytest.mark.parametrize("text", ["a", "[", "[1]", '[""]', '["\\ud800"]', "[" * 9000, "1," * 300 + "1", '{"a": 1}'])
def test_bad_breakers_as_text(text: str) -> None:
    assert param_of_error(dry_sequence_breakers=text) == "dry_sequence_breakers"
