"""Tests of the bodies and answers of /v1/embeddings."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable
from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.pooling.calls import PooledAnswer, Truncation
from worker_gguf.protocol.pooling.embeddings import (
    EmbeddingsCall,
    check_dimensions,
    parse_embeddings,
    render_embeddings,
)
from worker_gguf.protocol.rendering import Heading

Conforms = Callable[[str, Any], None]

CARD = ModelCard("m", 1, capabilities=("embedding",))
HEADING = Heading("embd-1", 1, "m", "fp")


def parsed(**fields: Any) -> EmbeddingsCall:
    return parse_embeddings({"input": "a", **fields}, Defaults())


def answered(*vectors: tuple[float, ...], **fields: Any) -> dict[str, Any]:
    return render_embeddings(parsed(**fields), PooledAnswer(HEADING, CARD, vectors, [3] * len(vectors)))


def test_an_empty_name_of_a_model_is_none() -> None:
    assert parsed(model="").model is None
    assert parsed(model="m").model == "m"


@pytest.mark.parametrize(
    ("given", "inputs"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2.0], ((1, 2),)), ([[1], [2, 3]], ((1,), (2, 3)))],
)
def test_every_form_of_input(given: object, inputs: tuple[object, ...]) -> None:
    assert parsed(input=given).inputs == inputs


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("", "input"),
        ([], "input"),
        ([[]], "input.0"),
        (["a", ""], "input.1"),
        (["a", 5], "input.1"),
        ([1, "a"], "input.1"),
        ([[1], ["a"]], "input.1.0"),
        ({"a": "b"}, "input"),
        ({"text": "b"}, "input"),
        ([-1], "input.0"),
        (["a"] * 2049, "input"),
    ],
)
def test_an_input_that_is_empty_mixed_or_too_large_is_an_error(given: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(input=given)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "truncation"),
    [
        ({}, None),
        ({"truncate": False}, None),
        ({"truncate": "NONE"}, None),
        ({"truncate": True}, Truncation("end")),
        ({"truncate": "END"}, Truncation("end")),
        ({"truncate": "START"}, Truncation("start")),
        ({"truncate": True, "truncation_direction": "Left"}, Truncation("start")),
        ({"truncate_prompt_tokens": -1}, Truncation("start")),
        ({"truncate_prompt_tokens": 8}, Truncation("start", 8)),
    ],
)
def test_inputs_are_cut_only_as_asked(fields: dict[str, Any], truncation: Truncation | None) -> None:
    assert parsed(**fields).truncation == truncation


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"truncate": True, "truncate_prompt_tokens": 8}, "truncate"),
        ({"truncate": "END", "truncation_direction": "Left"}, "truncation_direction"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"normalize": False, "embd_normalize": 2}, "embd_normalize"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
    ],
)
def test_contradictions_and_values_out_of_bounds(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(**fields)
    assert refused.value.param == param


def test_other_norms_are_refused() -> None:
    with pytest.raises(UnsupportedParameter, match="embd_normalize"):
        parsed(embd_normalize=0)


def test_fields_without_effect_are_named() -> None:
    assert parsed(user="u", input_type="query").ignored == ("input_type", "user")
    with pytest.raises(UnsupportedParameter, match="STRICT_PARAMETERS"):
        parse_embeddings({"input": "a", "user": "u"}, Defaults(strict=True))


def test_the_answer_has_openais_form(conforms: Conforms) -> None:
    body = answered((3.0, 4.0), (0.0, 2.0))
    conforms("CreateEmbeddingResponse", body)
    assert [item["embedding"] for item in body["data"]] == [[0.6, 0.8], [0.0, 1.0]]
    assert [item["index"] for item in body["data"]] == [0, 1]
    assert body["usage"] == {"prompt_tokens": 6, "total_tokens": 6}


def test_base64_is_little_endian_floats() -> None:
    (item,) = answered((3.0, 4.0), encoding_format="base64")["data"]
    assert struct.unpack("<2f", base64.b64decode(item["embedding"])) == pytest.approx((0.6, 0.8))


def test_fewer_dimensions_have_length_one_again() -> None:
    (item,) = answered((1.0, 1.0, 7.0), dimensions=2)["data"]
    assert item["embedding"] == pytest.approx([math.sqrt(0.5)] * 2)


@pytest.mark.parametrize("fields", [{"normalize": False}, {"embd_normalize": -1}])
def test_vectors_as_the_model_gives_them(fields: dict[str, Any]) -> None:
    (item,) = answered((3.0, 4.0), **fields)["data"]
    assert item["embedding"] == [3.0, 4.0]


def test_a_vector_without_a_direction_stays_as_it_is() -> None:
    (item,) = answered((0.0, 0.0))["data"]
    assert item["embedding"] == [0.0, 0.0]


def test_more_dimensions_than_the_model_has_are_an_error() -> None:
    with pytest.raises(InvalidRequest, match="must be at most 2, the length of this model's vectors, not 3"):
        check_dimensions(parsed(dimensions=3), 2)
    check_dimensions(parsed(dimensions=2), 2)
