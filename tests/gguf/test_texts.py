"""Tests that arrays of texts are compared by their bytes, and that differences are found where C would find them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf import ArrayInfo, Difference, first_difference, read_header, read_texts, text_at


def packed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<Q", len(text)) + text for text in texts)


def test_the_tokens_of_a_file_are_read_as_they_stand_in_it() -> None:
    header = read_header(MODEL_PATH)
    tokens, merges = header.get("tokenizer.ggml.tokens"), header.get("tokenizer.ggml.merges")
    assert isinstance(tokens, ArrayInfo)
    assert isinstance(merges, ArrayInfo)
    texts = read_texts(MODEL_PATH, tokens)
    assert texts.endswith(packed(b"<|python_tag|>"))
    assert read_texts(MODEL_PATH.read_bytes(), tokens) == texts
    assert read_texts(MODEL_PATH, merges) != texts


def test_a_text_is_found_by_its_index_and_ends_before_its_first_zero_byte() -> None:
    texts = packed(b"<s>", b"", b"a\0b")
    assert [text_at(texts, index) for index in range(4)] == [b"<s>", b"", b"a", b""]


def test_a_file_that_has_become_shorter_is_refused() -> None:
    tokens = read_header(MODEL_PATH).get("tokenizer.ggml.tokens")
    assert isinstance(tokens, ArrayInfo)
    with pytest.raises(ModelInvalid, match="cut short"):
        read_texts(MODEL_PATH.read_bytes()[: tokens.span[0] + 20], tokens)


@given(st.data(), st.lists(st.binary(max_size=5), max_size=12), st.lists(st.binary(max_size=5), max_size=12))
def test_the_difference_is_that_of_a_comparison_text_by_text(
    data: st.DataObject, texts: list[bytes], others: list[bytes]
) -> None:
    others = [*texts[: data.draw(st.integers(0, len(texts)))], *others]
    first = data.draw(st.integers(0, 6))
    pairs = [(text.split(b"\0")[0], other.split(b"\0")[0]) for text, other in zip(texts, others, strict=False)]
    different = [Difference(index, *pair) for index, pair in enumerate(pairs) if index >= first and pair[0] != pair[1]]
    assert first_difference(packed(*texts), packed(*others), first) == next(iter(different), None)
