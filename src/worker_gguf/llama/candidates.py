"""Finds the tokens that a sampler chain must look at, with numpy over the logits. Exact, not a heuristic.

A chain over 128k candidates takes about 0.25 ms. Most chains begin with top_k or min_p, and then only a few dozen
tokens can be drawn. The logits of a row are folded into a matrix, and the maximum of each column is taken. At least k
logits reach the k-th largest column maximum, so each of the k largest logits is in a column whose maximum reaches it.

All rows of a step are searched together: each call of numpy costs microseconds, whatever the number of rows. A few rows
are first compared with the level that their last rows had: if enough logits reach it, half of the time is saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

__all__ = [
    "FOLD",
    "MOST_TOGETHER",
    "Candidates",
    "Floats",
    "Ints",
    "Largest",
    "Level",
    "Near",
    "shortlists",
    "worth_folding",
]

# Rows of the folded matrix: 64 x 2,004 for a 128,256-token vocabulary balances the scan against the gather.
FOLD = 64
MOST_TOGETHER = 128
"""Rows that want at most so many tokens are searched for as many as the one among them that wants most."""
# With more rows, the comparison takes as long as the search: both wait for the memory.
_MOST_COMPARED = 8
# So many candidates are reduced to those that are wanted before a chain looks at them.
_MANY = 512

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Largest(NamedTuple):
    """A row wants its `k` largest logits. `k` must be less than n_vocab // FOLD."""

    k: int


class Near(NamedTuple):
    """A row wants all logits within `distance` of its largest one."""

    distance: float


class Candidates(NamedTuple):
    """Tokens in the order of their ids, and their logits, both of the shape (n,). They include all that a row wants."""

    ids: Ints
    logits: Floats


class Level:
    """Where the k-th largest logit of a sequence is expected, from its rows so far. A mean and a mean deviation."""

    __slots__ = ("_deviation", "_mean")

    def __init__(self) -> None:
        self._mean: float | None = None
        self._deviation = 1.0

    @property
    def expected(self) -> float | None:
        """A level that the wanted logits of most rows reach; None before the first row."""
        return None if self._mean is None else self._mean - 2 * self._deviation - 0.05

    def note(self, value: float) -> None:
        """Learn from the k-th largest logit of a row."""
        if self._mean is None or not math.isfinite(value):
            self._mean = value if math.isfinite(value) else self._mean
            return
        self._deviation += 0.2 * (abs(value - self._mean) - self._deviation)
        self._mean += 0.3 * (value - self._mean)


def worth_folding(n_vocab: int) -> bool:
    """Return whether the search pays off. On a small vocabulary, the whole chain is faster than the search."""
    return n_vocab >= 128 * FOLD


def shortlists(
    logits: Floats, wanted: Sequence[Largest | Near], levels: Sequence[Level] | None = None
) -> list[Candidates]:
    """Return the candidates of each row of `logits`, which has the shape (n_rows, n_vocab).

    Fewer candidates than wanted mean that a logit of the row is not a number. `levels` has what is known of the
    sequence of each row, and learns from the row.
    """
    if levels is None or len(wanted) > _MOST_COMPARED:
        return _search(logits, wanted)
    found = [_reaching(logits[i], want, levels[i]) for i, want in enumerate(wanted)]
    missed = [i for i, candidates in enumerate(found) if candidates is None]
    if missed:
        searched = _search(logits if len(missed) == len(found) else logits[missed], [wanted[i] for i in missed])
        for i, candidates in zip(missed, searched, strict=True):
            found[i] = candidates
            levels[i].note(_lowest_wanted(candidates.logits, wanted[i]))
    return [candidates for candidates in found if candidates is not None]


def _reaching(row: Floats, want: Largest | Near, level: Level) -> Candidates | None:
    """Return the logits that reach the expected level, or None if these may not be all that the row wants."""
    expected = level.expected
    if expected is None:
        return None
    ids = (row >= expected).nonzero()[0]
    if not ids.size or (isinstance(want, Largest) and ids.size < want.k):
        return None
    values = row[ids]
    lowest = _lowest_wanted(values, want)
    if lowest < expected:
        return None
    level.note(lowest)
    if ids.size > _MANY:
        is_wanted = values >= lowest
        ids, values = ids[is_wanted], values[is_wanted]
    return Candidates(ids, values)


def _lowest_wanted(values: Floats, want: Largest | Near) -> float:
    """Return the least logit that a row wants, from values that include the largest ones."""
    if isinstance(want, Near):
        return float(values.max()) - want.distance if values.size else math.nan
    if values.size < want.k:
        return math.nan
    return float(np.partition(values, values.size - want.k)[values.size - want.k])


def _search(logits: Floats, wanted: Sequence[Largest | Near]) -> list[Candidates]:
    folded = _fold(logits)
    maxima: Floats = folded.max(axis=1)
    thresholds = _thresholds(maxima, wanted)
    rows, columns = (maxima >= thresholds[:, None]).nonzero()
    values = folded[rows, :, columns]  # (number of columns, FOLD)
    at, layer = (values >= thresholds[rows, None]).nonzero()
    ids, of = layer * folded.shape[2] + columns[at], rows[at]
    order = (of * logits.shape[1] + ids).argsort()  # by row and id: some samplers draw in the order of the candidates
    ids, found = ids[order], values[at, layer][order]
    ends = np.searchsorted(of, np.arange(len(wanted)), side="right")
    n_folded = FOLD * folded.shape[2]
    starts = [0, *ends[:-1].tolist()]
    parts = [Candidates(ids[start:end], found[start:end]) for start, end in zip(starts, ends.tolist(), strict=True)]
    if n_folded < logits.shape[1]:
        parts = [_with_tail(part, logits[row, n_folded:], thresholds[row], n_folded) for row, part in enumerate(parts)]
    return parts


def _fold(logits: Floats) -> Floats:
    """Return a view of the shape (n_rows, FOLD, n_vocab // FOLD). It leaves out the last tokens that fill no column."""
    n_rows, n_vocab = logits.shape
    width = n_vocab // FOLD
    step = logits.strides[1]
    return as_strided(logits, (n_rows, FOLD, width), (logits.strides[0], width * step, step))


def _thresholds(maxima: Floats, wanted: Sequence[Largest | Near]) -> Floats:
    """Return a threshold for each row: all that the row wants reaches it."""
    width = maxima.shape[1]
    thresholds = np.empty(len(wanted), np.float32)
    together: list[int] = []
    k_together = 0
    for row, want in enumerate(wanted):
        if isinstance(want, Near):
            thresholds[row] = maxima[row].max() - want.distance
        elif want.k <= MOST_TOGETHER:
            together.append(row)
            k_together = max(k_together, want.k)
        else:
            thresholds[row] = np.partition(maxima[row], width - want.k)[width - want.k]
    if together:
        chosen = maxima if len(together) == len(wanted) else maxima[together]
        thresholds[together] = np.partition(chosen, width - k_together, axis=1)[:, width - k_together]
    return thresholds


def _with_tail(part: Candidates, tail: Floats, threshold: np.float32, n_before: int) -> Candidates:
    more = (tail >= threshold).nonzero()[0]
    if not more.size:
        return part
    return Candidates(np.concatenate((part.ids, more + n_before)), np.concatenate((part.logits, tail[more])))
