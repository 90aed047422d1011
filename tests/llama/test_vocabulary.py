"""Tests of the vocabulary, and of three published ones where their files are present."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.params import ModelParams
from worker_gguf.llama import backend
from worker_gguf.llama.model import Model
from worker_gguf.llama.vocabulary import Vocabulary

SHARED = Path(__file__).parents[3] / "shared" / "vocab"
NAMES = ("llama-bpe", "llama-spm", "qwen2")


@pytest.fixture(scope="module")
def vocabulary(model: Model) -> Vocabulary:
    return model.vocabulary


@given(st.text(max_size=60))
def test_any_text_survives_the_way_through_tokens(vocabulary: Vocabulary, text: str) -> None:
    tokens = vocabulary.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(vocabulary.piece(token) for token in tokens).decode() == text


def test_special_tokens_are_read_only_when_asked(vocabulary: Vocabulary) -> None:
    assert vocabulary.tokenize("<|eot_id|>", add_special=False, parse_special=True) == [
        token for token in vocabulary.eog if vocabulary.token_text(token) == "<|eot_id|>"
    ]
    assert len(vocabulary.tokenize("<|eot_id|>", add_special=False, parse_special=False)) > 1


def test_bos_is_added_when_the_model_asks_for_it(vocabulary: Vocabulary) -> None:
    assert vocabulary.adds_bos
    assert vocabulary.tokenize("a", add_special=True, parse_special=False)[0] == vocabulary.bos


def test_control_tokens_are_empty_in_an_answer(vocabulary: Vocabulary) -> None:
    assert vocabulary.bos is not None
    assert vocabulary.piece(vocabulary.bos) == b""
    assert vocabulary.control_piece(vocabulary.bos) == b"<|begin_of_text|>"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published vocabularies (../shared/vocab) are not here")
@pytest.mark.parametrize("name", NAMES)
def test_tokenisation_equals_the_published_one(name: str) -> None:
    backend.start()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    path = SHARED / f"ggml-vocab-{name}.gguf"
    pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert pointer is not None
    vocabulary = Vocabulary(pointer)
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = Path(f"{path}.out").read_text(encoding="utf-8").split("\n")
    assert len(texts) > 20
    try:
        for text, line in zip(texts, expected, strict=False):
            assert vocabulary.tokenize(text, add_special=False, parse_special=False) == [int(t) for t in line.split()]
    finally:
        llama_cpp.llama_model_free(pointer)


def test_special_tokens_of_the_original_repository_take_the_place_of_wrong_ones() -> None:
    own = Model(MODEL_PATH, ModelParams())
    vocabulary = own.vocabulary
    bos, eos = vocabulary.bos, vocabulary.eos
    assert bos is not None
    assert eos is not None
    plain = vocabulary.tokenize("Hello", add_special=True, parse_special=False)
    vocabulary.adopt(bos, (eos,))
    assert vocabulary.tokenize("Hello", add_special=True, parse_special=False) == plain
    vocabulary.adopt(1020, (1021, 1020))
    assert vocabulary.tokenize("Hello", add_special=True, parse_special=False) == [1020, *plain[1:]]
    assert (vocabulary.bos, vocabulary.eos) == (1020, 1021)
    assert vocabulary.eog >= {eos, 1020, 1021}
    own.close()
