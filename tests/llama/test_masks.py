"""Tests of masks over logits: the allowed tokens, whether few or nearly all."""

from __future__ import annotations

import numpy as np
import pytest

from worker_gguf.constraints.guide import MaskWords
from worker_gguf.llama.masks import MaskReader

N_VOCAB = 5003


def words_of(allowed: list[int]) -> MaskWords:
    bits = np.zeros(-(-N_VOCAB // 32) * 32, np.uint8)
    bits[allowed] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


@pytest.mark.parametrize("n_allowed", [0, 1, 40, 2048, 2049, N_VOCAB - 1, N_VOCAB])
def test_only_allowed_tokens_are_left(n_allowed: int) -> None:
    rng = np.random.default_rng(n_allowed)
    allowed = sorted(rng.choice(N_VOCAB, n_allowed, replace=False).tolist())
    logits = rng.normal(size=N_VOCAB).astype(np.float32)
    row = logits.copy()
    found = MaskReader(N_VOCAB).read(words_of(allowed)).apply(row)
    if found is None:
        assert n_allowed > 2048
        assert np.isfinite(row).nonzero()[0].tolist() == allowed
        assert row[allowed].tolist() == logits[allowed].tolist()
    else:
        assert found.ids.tolist() == allowed
        assert found.logits.tolist() == logits[allowed].tolist()
        assert row.tolist() == logits.tolist()


def test_a_reader_that_has_seen_many_masks_reads_each_right() -> None:
    reader = MaskReader(N_VOCAB)
    for turn in range(2):
        for token in range(300):
            (found,) = [reader.read(words_of([token])).ids]
            assert found is not None
            assert found.tolist() == [token], turn
