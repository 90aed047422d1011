"""The rows of an image, and the llama_batch in which they take the place of tokens."""

from __future__ import annotations

import ctypes

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from worker_gguf.engine.batch import Chunk
from worker_gguf.llama.bindings import llama_cpp
from worker_gguf.llama.candidates import Floats

__all__ = ["RowBatch", "Rows"]


class Rows(Struct, frozen=True, eq=False):
    """The encoded rows of one run, with the shape (rows, width).

    They use `n_positions` positions of the sequence. `places` has the positions of each row in four sections, counted
    from the first position of the run; None where each row has the position after that of the row before.
    """

    values: Floats
    n_positions: int
    places: NDArray[np.int32] | None = None


class RowBatch:
    """Keeps the arrays to which `native` points. A batch has either tokens or rows, never both."""

    def __init__(self, chunk: Chunk, rows: Rows, first: int, position: int) -> None:
        """`first` is the first row of the chunk in its run, and `position` the position of the run."""
        n = len(chunk.tokens)
        self._values = np.ascontiguousarray(rows.values[first : first + n])
        self._pos = _positions(rows, first, n, position)
        self._n_seq = np.ones(n, np.int32)
        self._seq = np.array([chunk.slot], np.int32)
        self._seq_at = np.full(n, self._seq.ctypes.data, np.uintp)
        self._output = np.zeros(n, np.int8)
        self._output[n - chunk.n_outputs :] = 1
        self.native = llama_cpp.llama_batch(
            n_tokens=n,
            token=None,
            embd=self._values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            pos=self._pos.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=self._n_seq.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._seq_at.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=self._output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )


def _positions(rows: Rows, first: int, n: int, position: int) -> NDArray[np.int32]:
    """Return the positions of rows. With M-RoPE, there are four sections, one after another."""
    if rows.places is None:
        return np.arange(position + first, position + first + n, dtype=np.int32)
    places = rows.places[:, first : first + n] + np.int32(position)
    places[3] = 0
    return np.ascontiguousarray(places, np.int32)
