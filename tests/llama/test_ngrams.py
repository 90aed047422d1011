"""Tests of banned n-grams, against a search of the whole text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker_gguf.llama.ngrams import Ngrams


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4), st.integers(0, 30))
def test_exactly_the_tokens_that_repeat_an_ngram_are_banned(tokens: list[int], size: int, cut: int) -> None:
    ngrams = Ngrams(size)
    ngrams.note(tokens[:cut])
    for token in tokens[cut:]:
        ngrams.note([token])
    known = {tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)}
    end = tokens[len(tokens) - size + 1 :] if len(tokens) >= size - 1 else None
    assert ngrams.banned() == {token for token in range(4) if end is not None and (*end, token) in known}
