"""Which tokens a sampler chain has to look at, found with numpy over the logits. Exact, not a heuristic.

A chain over 128k candidates costs about 0.25 ms; most chains begin with top_k or min_p, and then only a few dozen
tokens can be drawn. The logits are folded into a matrix whose columns are scanned for their maxima: at least k logits
reach the k-th largest column maximum, so each of the k largest lies in a column whose maximum reaches it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["FOLD", "Floats", "Ints", "column_maxima", "reaching", "top", "worth_folding"]

# Rows of the folded matrix: 64 x 2,004 for a 128,256-token vocabulary balances the scan against the gather.
FOLD = 64

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def worth_folding(n_vocab: int) -> bool:
    """On a small vocabulary the whole chain is quicker than the search."""
    return n_vocab >= 128 * FOLD


def column_maxima(logits: Floats) -> Floats:
    """Fold the last axis, n_vocab long, into FOLD rows and take each column's maximum: (..., n_vocab // FOLD)."""
    width = logits.shape[-1] // FOLD
    folded = logits[..., : width * FOLD].reshape(*logits.shape[:-1], FOLD, width)
    maxima: Floats = folded.max(axis=-2)
    return maxima


def reaching(logits: Floats, maxima: Floats, threshold: float) -> Ints:
    """Ids of all tokens whose logit is at least `threshold`. `maxima` is `column_maxima(logits)`, logits (n_vocab,)."""
    width = maxima.shape[0]
    columns = np.flatnonzero(maxima >= threshold)
    ids = (np.arange(0, width * FOLD, width)[:, None] + columns).ravel()
    if width * FOLD < logits.shape[0]:
        ids = np.concatenate((ids, np.arange(width * FOLD, logits.shape[0])))
    chosen: Ints = ids[logits[ids] >= threshold]
    return chosen


def top(logits: Floats, maxima: Floats, k: int) -> Ints:
    """Ids among which are the `k` largest logits; there may be more. `k` must be less than len(maxima)."""
    width = maxima.shape[0]
    threshold = np.partition(maxima, width - k)[width - k]
    return reaching(logits, maxima, threshold)
