"""Carries out the steps of a model that pools: a context that gives one row of numbers for each input."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from worker_gguf.engine.params import ContextParams, PoolingParams
from worker_gguf.engine.pooling import Part, PoolingBatch, PoolingResult
from worker_gguf.engine.runner import Limits, PoolingLimits
from worker_gguf.errors import EngineFailed
from worker_gguf.llama import backend
from worker_gguf.llama.bindings import llama_cpp
from worker_gguf.llama.context import DecodeFailed, limiting_threads, native_params, why_no_context
from worker_gguf.llama.model import Model
from worker_gguf.llama.token_batch import TokenBatch

__all__ = ["LlamaPooler", "PoolingContext"]


class PoolingContext:
    """A context that pools, owned by one thread. Close it before its model."""

    def __init__(self, model: Model, params: ContextParams) -> None:
        """Raises NotEnoughMemory or ModelError if llama.cpp cannot create the context."""
        assert params.pooling is not None
        self.params = params
        self.pooling: PoolingParams = params.pooling
        ranks = self.pooling.type == "rank"
        width = llama_cpp.llama_model_n_cls_out if ranks else llama_cpp.llama_model_n_embd_out
        self.n_values: int = width(model.pointer)
        backend.forget_errors()
        pointer = llama_cpp.llama_init_from_model(model.pointer, native_params(params))
        if not pointer:
            raise why_no_context(params)
        self._pointer: llama_cpp.llama_context_p | None = pointer
        # Most encoders have none.
        self._memory: llama_cpp.llama_memory_t | None = llama_cpp.llama_get_memory(pointer)
        # T5's encoder has a memory, which only its decoder would use.
        encodes = llama_cpp.llama_model_has_encoder(model.pointer) or not self._memory
        self._compute = llama_cpp.llama_encode if encodes else llama_cpp.llama_decode
        self.n_ctx_seq: int = llama_cpp.llama_n_ctx_seq(pointer)
        self.n_ctx_total: int = llama_cpp.llama_n_ctx(pointer)
        self._batch = TokenBatch(params.n_batch)
        self._batch.output[:] = 1  # llama.cpp warns of every other value

    def compute(self, parts: Sequence[Part]) -> None:
        """Compute all parts in one batch. Raises DecodeFailed, after which it is unknown what their slots hold."""
        batch, at = self._batch, 0
        for part in parts:
            end = at + len(part.tokens)
            batch.token[at:end] = part.tokens
            batch.pos[at:end] = np.arange(part.start, part.start + len(part.tokens))
            batch.seq[at:end] = part.slot
            at = end
        batch.native.n_tokens = at
        if (code := self._compute(self._pointer, batch.native)) != 0:
            raise DecodeFailed(f"llama.cpp answered {code}. {' '.join(backend.recent_errors()[-2:])}")

    def values(self, slot: int) -> bytes:
        """Return the numbers of an input of the last batch, as 32-bit floats. Waits until they are computed."""
        return ctypes.string_at(llama_cpp.llama_get_embeddings_seq(self._pointer, slot), 4 * self.n_values)

    def empty(self, slot: int) -> None:
        if self._memory:
            llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)

    @contextmanager
    def limiting_threads(self, most: int) -> Iterator[None]:
        """Compute with at most `most` threads while the block runs."""
        with limiting_threads(self._pointer, self.params, most):
            yield

    def close(self) -> None:
        if self._pointer is not None:
            llama_cpp.llama_free(self._pointer)
            self._pointer = None


class LlamaPooler:
    """One model and one context that pools. Owned by the thread of the engine's loop."""

    def __init__(self, context: PoolingContext) -> None:
        self._context = context
        params, pooling = context.params, context.pooling
        self._limits = Limits(
            n_slots=params.n_parallel,
            n_ctx=min(params.n_ctx, context.n_ctx_seq),
            n_cells=context.n_ctx_total,
            n_batch=params.n_batch,
            pooling=PoolingLimits(context.n_values, pooling.n_packed, pooling.is_whole, ranks=pooling.type == "rank"),
        )

    @property
    def limits(self) -> Limits:
        return self._limits

    def run(self, batch: PoolingBatch) -> PoolingResult:
        for slot in batch.emptied:
            self._context.empty(slot)
        started = time.perf_counter()
        try:
            values = self._pool(batch.parts)
            if len(batch.parts) > 1 and len(values) < sum(part.is_last for part in batch.parts):
                # llama.cpp multiplies the rows of other inputs by 0, and 0 times a number that is not finite is none.
                for part in batch.parts:
                    if part.slot not in values and part.is_last and part.start == 0:
                        values |= self._pool([part])
        except DecodeFailed as error:
            for part in batch.parts:
                self._context.empty(part.slot)
            return PoolingResult({}, EngineFailed(f"The model could not be computed: {error}"))
        return PoolingResult(values, seconds=time.perf_counter() - started)

    def _pool(self, parts: Sequence[Part]) -> dict[int, bytes]:
        """Compute parts and return the finite numbers of the inputs that they complete, whose slots are empty then."""
        self._context.compute(parts)
        last = [part.slot for part in parts if part.is_last]
        values = {slot: self._context.values(slot) for slot in last}
        for slot in last:
            self._context.empty(slot)
        return _finite(values, self._context.n_values)

    def close(self) -> None:
        self._context.close()


def _finite(values: dict[int, bytes], n_values: int) -> dict[int, bytes]:
    """Return the entries whose numbers are all finite."""
    rows = np.frombuffer(b"".join(values.values()), np.float32).reshape(len(values), n_values)
    if np.isfinite(rows).all():
        return values
    return {slot: row for slot, row in values.items() if np.isfinite(np.frombuffer(row, np.float32)).all()}
