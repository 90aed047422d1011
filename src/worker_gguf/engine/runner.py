"""The seam between the engine and whatever computes: one method, and what the scheduler must know of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from worker_gguf.engine.batch import Batch, StepResult

__all__ = ["Limits", "Runner"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the scheduler must know of the model and its memory.

    `n_ctx` is one request's most tokens, prompt and answer; `n_cells` the tokens that fit in memory, all slots
    together; `n_batch` the most tokens of one step. `partitioned`: each slot has its own memory, and slots that are
    neighbours compute together fastest. `prefix` says what of a slot's tokens can be used again: "any" first part of
    them, or only the "whole" (a recurrent memory keeps one state and cannot be cut). `n_outputs` is the most rows of
    logits of one slot in one step.
    """

    n_slots: int
    n_ctx: int
    n_cells: int
    n_batch: int
    eog: frozenset[int]
    partitioned: bool = False
    prefix: Literal["any", "whole"] = "any"
    n_outputs: int = 1


class Runner(Protocol):
    """Carries batches out. Called from the engine's one thread only."""

    @property
    def limits(self) -> Limits: ...

    def run(self, batch: Batch) -> StepResult:
        """Do the operations in order, decode all chunks, draw for each chunk that has outputs.

        The drawn tokens come in the order of the chunks. Never raises for what a request asked: a failure of the
        computation is in the result.
        """
        ...

    def close(self) -> None: ...
