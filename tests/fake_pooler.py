"""A stand-in for a model that pools: keeps the contract of its runner, and checks that the scheduler does."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence

from worker_gguf.engine.pooling import PoolingBatch, PoolingResult
from worker_gguf.engine.request import PoolingRequest
from worker_gguf.engine.runner import Limits, PoolingLimits

__all__ = ["FakePooler", "pooling_limits", "pooling_request", "values_of"]


def pooling_limits(*, is_whole: bool = True, n_packed: int = 16, n_ctx: int = 32, n_slots: int = 4) -> Limits:
    n_batch = max(n_ctx, n_packed) if is_whole else n_packed
    n_cells = n_batch if is_whole else n_ctx + n_packed
    return Limits(n_slots, n_ctx, n_cells, n_batch, pooling=PoolingLimits(2, n_packed, is_whole))


def pooling_request(
    request_id: str, prompt: Sequence[int] = (1, 2, 3), *, priority: int = 0, deadline_s: float | None = None
) -> PoolingRequest:
    return PoolingRequest(request_id, tuple(prompt), priority, deadline_s)


def values_of(prompt: Sequence[int]) -> bytes:
    """Return numbers that depend on all tokens of an input and their order."""
    return struct.pack("<2f", len(prompt), sum((at + 1) * token for at, token in enumerate(prompt)))


class FakePooler:
    """Holds each slot's tokens and checks each step against them.

    A part that does not begin where its slot ends, two parts for one slot, an input that is computed in parts although
    it must not be, or more tokens than a step or the memory has room for are assertion errors.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.memory: dict[int, list[int]] = {}
        self.batches: list[PoolingBatch] = []
        self.next_results: list[PoolingResult] = []
        self.on_run: Callable[[], None] = lambda: None
        self.gate: threading.Event | None = None
        self.is_closed = False

    @property
    def limits(self) -> Limits:
        return self._limits

    def run(self, batch: PoolingBatch) -> PoolingResult:
        if self.gate is not None:
            self.gate.wait()
        self.batches.append(batch)
        self.on_run()
        for slot in batch.emptied:
            self.memory.pop(slot, None)
        self._check(batch)
        if self.next_results and (result := self.next_results.pop(0)).error is not None:
            for part in batch.parts:
                self.memory.pop(part.slot, None)
            return result
        values: dict[int, bytes] = {}
        for part in batch.parts:
            self.memory.setdefault(part.slot, []).extend(part.tokens)
        assert sum(map(len, self.memory.values())) <= self._limits.n_cells
        for part in batch.parts:
            if part.is_last:
                values[part.slot] = values_of(self.memory.pop(part.slot))
        return PoolingResult(values, seconds=0.5)

    def close(self) -> None:
        self.is_closed = True

    def _check(self, batch: PoolingBatch) -> None:
        limits, pooling = self._limits, self._limits.pooling
        assert pooling is not None
        assert 0 < len(batch.parts) <= limits.n_slots
        assert batch.n_tokens <= limits.n_batch
        assert len({part.slot for part in batch.parts}) == len(batch.parts)
        if len(batch.parts) > 1:
            assert batch.n_tokens <= pooling.n_packed
        for part in batch.parts:
            assert 0 <= part.slot < limits.n_slots
            assert part.tokens
            assert part.start == len(self.memory.get(part.slot, []))
            assert not pooling.is_whole or (part.start == 0 and part.is_last)
