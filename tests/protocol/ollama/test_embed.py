"""Tests of the bodies and answers of /api/embed and /api/embeddings."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import Defaults, ReadyCall
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.ollama.bodies import MAX_INPUTS
from worker_gguf.protocol.ollama.embed import (
    EMBED,
    parse_embed,
    parse_embeddings,
    render_embed,
    render_embeddings,
)
from worker_gguf.protocol.pooling.calls import PooledAnswer, PoolingCall, Truncation
from worker_gguf.protocol.pooling.embeddings import EmbeddingsCall
from worker_gguf.protocol.rendering import Heading
from worker_gguf.protocol.screening import MAX_IGNORED

CARD = ModelCard("m", 1, capabilities=("embedding",))
HEADING = Heading("embd-1", 1, "m", "fp")


def embed(**fields: Any) -> EmbeddingsCall:
    call = parse_embed({"input": "a", **fields}, Defaults())
    assert isinstance(call, EmbeddingsCall)
    return call


def embeddings(**fields: Any) -> PoolingCall:
    call = parse_embeddings({"prompt": "a", **fields}, Defaults())
    assert isinstance(call, PoolingCall)
    return call


def answered(*vectors: tuple[float, ...]) -> PooledAnswer:
    return PooledAnswer(HEADING, CARD, vectors, [3] * len(vectors), seconds=0.5, load_seconds=0.25)


@pytest.mark.parametrize(("given", "inputs"), [("a", ("a",)), (["a", "b"], ("a", "b")), (["a", ""], ("a", ""))])
def test_a_text_or_texts(given: object, inputs: tuple[str, ...]) -> None:
    assert embed(input=given).inputs == inputs


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (5, "input"),
        ({"a": "b"}, "input"),
        (["a", 5], "input.1"),
        ([["a"]], "input.0"),
        ([1, 2], "input.0"),
        (["a", None], "input.1"),
        (["a"] * (MAX_INPUTS + 1), "input"),
    ],
)
def test_an_input_of_another_type_is_an_error(given: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        embed(input=given)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "truncation"),
    [
        ({}, Truncation()),
        ({"truncate": None}, Truncation()),
        ({"truncate": True}, Truncation()),
        ({"truncate": False}, None),
    ],
)
def test_a_long_text_is_cut_unless_the_client_says_no(fields: dict[str, Any], truncation: Truncation | None) -> None:
    assert embed(**fields).truncation == truncation


def test_the_older_route_cuts_a_text_only_if_it_is_told_to() -> None:
    assert embeddings().truncation is None
    assert embeddings(truncate=True).truncation == Truncation()
    assert embeddings().param == "prompt"


@pytest.mark.parametrize("input", ["", [], None])
def test_without_a_text_the_model_is_only_loaded(input: object) -> None:
    call = parse_embed({"model": "m:latest", "input": input, "keep_alive": 0}, Defaults())
    assert isinstance(call, ReadyCall)
    assert (call.needs_model, call.ignored) == (True, ("keep_alive",))
    assert call.answer(CARD) == {"model": "m:latest", "embeddings": []}


def test_without_a_prompt_the_model_is_only_loaded() -> None:
    call = parse_embeddings({}, Defaults())
    assert isinstance(call, ReadyCall)
    assert call.answer(CARD) == {"embedding": []}


def test_what_has_no_effect_is_named() -> None:
    fields = {"options": {"num_ctx": 5, "seed": None}, "keep_alive": "5m", "user": "u"}
    names = ("keep_alive", "options.num_ctx", "user")
    assert embed(**fields).ignored == embeddings(**fields).ignored == names
    with pytest.raises(UnsupportedParameter):
        parse_embed({"input": "a", **fields}, Defaults(strict=True))


def test_limits_of_a_request() -> None:
    assert (embed(timeout=5, priority=-1).timeout_s, embed(timeout=5, priority=-1).priority) == (5, -1)
    assert (embeddings(timeout=5, priority=2).timeout_s, embeddings(priority=2).priority) == (5, 2)


def test_vectors_have_length_1_and_the_name_that_the_client_sent() -> None:
    assert render_embed(embed(model="m:latest"), answered((3.0, 4.0), (0.0, 2.0))) == {
        "model": "m:latest",
        "embeddings": [[0.6, 0.8], [0.0, 1.0]],
        "total_duration": 500_000_000,
        "load_duration": 250_000_000,
        "prompt_eval_count": 6,
    }
    assert render_embed(embed(), answered((3.0, 4.0)))["model"] == "m"


def test_fewer_numbers_have_length_1_again() -> None:
    assert render_embed(embed(dimensions=1.0), answered((3.0, 4.0)))["embeddings"] == [[1.0]]
    assert render_embed(embed(dimensions=0), answered((3.0, 4.0)))["embeddings"] == [[0.6, 0.8]]
    assert EMBED.check is not None
    EMBED.check(embed(dimensions=2), 2)
    with pytest.raises(InvalidRequest) as refused:
        EMBED.check(embed(dimensions=3), 2)
    assert refused.value.param == "dimensions"


def test_the_older_route_gives_the_vector_as_the_model_does() -> None:
    assert render_embeddings(embeddings(), answered((3.0, 4.0))) == {"embedding": [3.0, 4.0]}


def test_an_empty_name_of_a_model_is_none() -> None:
    assert embed(model="").model is embeddings(model="").model is None
    loading = parse_embed({"model": ""}, Defaults()), parse_embeddings({"model": ""}, Defaults())
    assert [call.model for call in loading] == [None, None]


def test_of_thousands_of_options_without_effect_some_are_named() -> None:
    assert len(embed(options={f"x{number}": 1 for number in range(60_000)}).ignored) == MAX_IGNORED + 1
