"""Tests of the special tokens that a header names, against llama.cpp's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.gguf import SpecialIds, read_header, special_ids
from worker_gguf.llama.vocabulary_only import load_vocabulary

BOS, EOS, PRE = b"tokenizer.ggml.bos_token_id", b"tokenizer.ggml.eos_token_id", b"tokenizer.ggml.pre"


def written(path: Path, *names: bytes, pre: bytes = b"llama-bpe") -> Path:
    """Write the embedded model with some keys under names that nobody reads, and with another pre-tokeniser."""
    content = MODEL_PATH.read_bytes()
    for name in names:
        content = content.replace(name, name[:-1] + b"_", 1)
    assert content.count(b"llama-bpe") == 1
    path.write_bytes(content.replace(b"llama-bpe", pre, 1))
    return path


@pytest.mark.parametrize(
    ("names", "pre"), [((), b"llama-bpe"), ((BOS,), b"llama-bpe"), ((BOS, EOS), b"llama-bpe"), ((EOS,), b"llama-bpe")]
)
def test_they_are_those_of_the_vocabulary(names: tuple[bytes, ...], pre: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "model.gguf", *names, pre=pre)
    header = read_header(path)
    vocabulary = load_vocabulary(path, path.read_bytes()[: header.data_offset], path.stat().st_size)
    assert special_ids(header) == ("BPE", vocabulary.bos, vocabulary.eos)
    vocabulary.close()


def test_a_number_outside_the_vocabulary_counts_as_none() -> None:
    header = read_header(MODEL_PATH)
    assert special_ids(replace(header, bos_id=1024, eos_id=None)) == SpecialIds("BPE", 11, 11)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama", ("SentencePiece", 1, 2)),
        ("bert", ("WordPiece", 101, None)),
        ("gemma4", ("BPE", None, None)),
        ("t5", ("Unigram", None, 1)),
        ("new", (None, None, None)),
    ],
)
def test_without_numbers_each_kind_has_its_own(kind: str, expected: SpecialIds) -> None:
    header = read_header(MODEL_PATH)
    unnamed = replace(header, bos_id=None, eos_id=None, metadata={"tokenizer.ggml.model": kind})
    assert special_ids(unnamed) == expected


def test_some_pretokenisers_have_no_first_token() -> None:
    header = read_header(MODEL_PATH)
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "glm4"}
    assert special_ids(replace(header, bos_id=None, eos_id=None, metadata=metadata)) == ("BPE", None, 11)
