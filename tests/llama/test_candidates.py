"""Tests that the short list of candidate tokens contains every token that can be sampled."""

from __future__ import annotations

import numpy as np
import pytest

from worker_gguf.llama.candidates import FOLD, column_maxima, reaching, top, worth_folding


@pytest.mark.parametrize("n_vocab", [128_256, 128 * FOLD, 128 * FOLD + 7, 151_936 + 63])
@pytest.mark.parametrize("k", [1, 40, 100])
def test_top_has_the_k_largest(n_vocab: int, k: int) -> None:
    rng = np.random.default_rng(n_vocab + k)
    for scale in (0.01, 1.0, 100.0):
        logits = (rng.standard_normal(n_vocab) * scale).astype(np.float32)
        found = top(logits, column_maxima(logits), k)
        assert set(np.argsort(-logits)[:k]) <= set(found)
        assert len(set(found)) == len(found)


def test_top_keeps_ties_at_the_border() -> None:
    logits = np.zeros(128 * FOLD, np.float32)
    logits[[5, 77, 4000]] = 1.0
    assert set(top(logits, column_maxima(logits), 2)) == {5, 77, 4000}


def test_reaching_is_every_logit_at_the_threshold_or_above() -> None:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal(9000).astype(np.float32)
    assert set(reaching(logits, column_maxima(logits), 2.0)) == set(np.flatnonzero(logits >= 2.0))


def test_a_small_vocabulary_is_not_worth_it() -> None:
    assert not worth_folding(1024)
    assert worth_folding(128_256)
