"""Tests of the form of a pair by what a file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests import tiny_models
from worker_gguf.gguf import ModelHeader, read_header
from worker_gguf.gguf.pooling import why_other_scores
from worker_gguf.service.pooling_prompts import PairForm
from worker_gguf.start.pair_form import pair_form

EOS, SEPARATOR = "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_sep_token"


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> ModelHeader:
    return read_header(tiny_models.write_reranker(tmp_path_factory.mktemp("ranker") / "ranker.gguf"))


def with_metadata(header: ModelHeader, **more: Any) -> ModelHeader:
    return replace(header, metadata={**header.metadata, **more})


@pytest.mark.parametrize(
    ("stated", "n_between"),
    [
        ({}, 1),
        ({SEPARATOR: True}, 1),
        ({EOS: True}, 1),
        ({EOS: True, SEPARATOR: False}, None),  # llama.cpp's converter for BERT
        ({EOS: False}, None),
        ({EOS: False, SEPARATOR: True}, None),
    ],
)
def test_a_file_that_states_nothing_is_read_as_bert_was_trained(
    ranker: ModelHeader, stated: dict[str, bool], n_between: int | None
) -> None:
    assert pair_form(with_metadata(ranker, **stated)) == PairForm(n_between=n_between)


def test_xlm_roberta_has_two_separators(ranker: ModelHeader) -> None:
    unigram = with_metadata(ranker, **{"tokenizer.ggml.model": "t5", EOS: True})
    assert pair_form(unigram) == PairForm(n_between=2)
    assert pair_form(with_metadata(unigram, **{SEPARATOR: True})) == PairForm()


def test_other_models_are_read_as_llama_server_does(ranker: ModelHeader) -> None:
    assert pair_form(replace(ranker, architecture="qwen3")) == PairForm()
    assert pair_form(with_metadata(ranker, **{"tokenizer.ggml.model": "gpt2"})) == PairForm()


def test_the_form_of_the_file_is_first(ranker: ModelHeader) -> None:
    template = "{query} {document}"
    assert pair_form(with_metadata(ranker, **{"tokenizer.chat_template.rerank": template})) == PairForm(template)


def test_llama_cpp_does_not_compute_all_of_a_ranker_of_berts_shape(ranker: ModelHeader, tmp_path: Path) -> None:
    assert why_other_scores(ranker) is None
    without_layer = replace(ranker, tensors=tuple(tensor for tensor in ranker.tensors if tensor.name != "cls.weight"))
    assert "segments" in str(why_other_scores(without_layer))
    assert why_other_scores(with_metadata(without_layer, **{"tokenizer.ggml.model": "t5"})) is None
    assert why_other_scores(read_header(tiny_models.write_encoder(tmp_path / "encoder.gguf"))) is None
