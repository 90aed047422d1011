"""The interface between the engine and a model: one method, and the limits that the scheduler needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from worker_gguf.engine.batch import Batch, StepResult

__all__ = ["Limits", "Runner"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a model and its memory, for the scheduler.

    `n_ctx` is the most tokens of one request, prompt and answer together; `n_cells` is the number of tokens that all
    slots together can hold; `n_batch` is the most tokens of one step. With `partitioned`, each slot has its own part of
    the memory, and neighbouring slots compute together fastest. `prefix` is "any" where any first part of a slot's
    tokens can be reused, and "whole" where only all of them can (a recurrent memory keeps one state and cannot be cut).
    `n_outputs` is the most rows of logits of one slot in one step.
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
        """Carry out the operations in order, decode all chunks, and draw for each chunk that has outputs.

        The drawn tokens come in the order of the chunks. Never raises for something a request asked for: a failed
        computation is part of the result.
        """
        ...

    def close(self) -> None: ...
