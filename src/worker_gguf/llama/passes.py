"""Divides the chunks of a step into groups, each of which llama.cpp computes on its own. Knows nothing of llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from worker_gguf.engine.batch import Chunk

__all__ = ["Chunks", "divide"]

Chunks = tuple[Chunk, ...]


def divide(chunks: Chunks, cells_per_pass: float) -> tuple[Chunks, ...]:
    """Divide chunks with a partitioned memory into those with long sequences and the others, if that is faster.

    llama.cpp computes neighbouring slots in one pass: first one token of each, then the rest of the prompts. The
    attention of a pass runs over as many cells for each slot as the longest of them has. So short sequences beside a
    long one pay for its length. But each further pass reads the weights once more, which takes as long as attention
    over `cells_per_pass` cells.
    """
    length = max(map(_end, chunks))
    long = tuple(chunk for chunk in chunks if 2 * _end(chunk) > length)
    short = tuple(chunk for chunk in chunks if 2 * _end(chunk) <= length)
    if not short:
        return (chunks,)
    n_rows = sum(max(1, chunk.n_outputs) for chunk in short)
    n_saved = n_rows * (length - max(map(_end, short)))
    n_further = _n_runs(long) + _n_runs(short) - _n_runs(chunks)
    if any(len(chunk.tokens) > 1 for chunk in long):
        n_further -= 1  # the rest of these chunks would have had a pass of its own
    return (long, short) if n_further <= 0 or n_saved > n_further * cells_per_pass else (chunks,)


def _end(chunk: Chunk) -> int:
    return chunk.start + len(chunk.tokens)


def _n_runs(chunks: Sequence[Chunk]) -> int:
    """Return the number of runs of neighbouring slots."""
    return 1 + sum(chunk.slot > before.slot + 1 for before, chunk in pairwise(chunks))
