"""A llama_batch of tokens over numpy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from worker_gguf.engine.batch import Chunk
from worker_gguf.llama.bindings import llama_cpp
from worker_gguf.llama.candidates import Floats
from worker_gguf.llama.positions import Positions

__all__ = ["TokenBatch"]


class TokenBatch:
    """Filling it takes a few slice assignments, not a ctypes write per token."""

    def __init__(self, n_batch: int, positions: Positions | None = None) -> None:
        self._positions = positions or Positions()
        self.token = np.zeros(n_batch, np.int32)
        self.pos = np.zeros(n_batch, np.int32)
        self.seq = np.zeros(n_batch, np.int32)
        self.output = np.zeros(n_batch, np.int8)
        self._n_seq = np.ones(n_batch, np.int32)
        # seq_id[i] points to the list of sequences of token i, which is one entry of `seq`.
        self._seq_at = (self.seq.ctypes.data + 4 * np.arange(n_batch)).astype(np.uintp)
        self.native = llama_cpp.llama_batch(
            n_tokens=0,
            token=self.token.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            embd=None,
            pos=self.pos.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=self._n_seq.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._seq_at.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=self.output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, chunks: Sequence[Chunk], hidden: Floats | None = None) -> int:
        """Write the chunks one after another and return the number of outputs."""
        at = n_outputs = 0
        if hidden is not None:
            self._hidden = np.ascontiguousarray(hidden, np.float32)  # must live as long as it is pointed to
            self.native.embd = self._hidden.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        for chunk in chunks:
            n = len(chunk.tokens)
            end = at + n
            self.token[at:end] = chunk.tokens
            first = self._positions.of(chunk.slot, chunk.start)
            self.pos[at:end] = np.arange(first, first + n) if n > 1 else first
            self.seq[at:end] = chunk.slot
            if n > 1:
                self.output[at:end] = 0
            self.output[end - (chunk.n_outputs or 1) : end] = chunk.n_outputs > 0
            n_outputs += chunk.n_outputs
            at = end
        self.native.n_tokens = at
        return n_outputs
