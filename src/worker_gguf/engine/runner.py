"""The interface between the engine and a model: one method, and the limits that the scheduler needs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from msgspec import Struct

from worker_gguf.engine.batch import Batch, StepResult
from worker_gguf.engine.image_runs import ImageWork
from worker_gguf.engine.request import GenerationRequest

__all__ = ["Limits", "PoolingLimits", "Runner", "SpecialTokens"]


class PoolingLimits(Struct, frozen=True):
    """The further limits of a model that pools.

    The result of an input has `n_values` numbers: those of a vector, or the scores if the model `ranks`. A step packs
    inputs of `n_packed` tokens together. With `is_whole`, an input must be computed in one step, and a longer one has a
    step of its own; otherwise it is computed in parts.
    """

    n_values: int
    n_packed: int
    is_whole: bool
    ranks: bool = False


class Limits(Struct, frozen=True):
    """The limits of a model and its memory, as the scheduler needs them.

    `n_ctx` is the maximum number of tokens of one request, prompt and answer together. `n_cells` is the number of
    tokens that all slots together can hold. `n_batch` is the maximum number of tokens in one step. With `partitioned`,
    each slot has its own part of the memory, and neighbouring slots compute fastest together. `prefix` is "any" if any
    prefix of a slot's tokens can be reused, and "whole" if only all of them can (a recurrent memory keeps one state and
    cannot be cut). `saved_prefix` is the same for a state that was saved and loaded again (one of a sliding window has
    only the window). `n_rows` is the maximum number of rows of logits in one step; more than `n_slots` leave room for
    guessed tokens. A model that pools has `pooling`: then `n_slots` is the maximum number of inputs in one step, and
    `n_ctx` that of the tokens of one input. `n_adapters` is the number of LoRA adapters that requests may use. With
    `divides_images`, an image is computed in parts beside running answers, however short it is.
    """

    n_slots: int
    n_ctx: int
    n_cells: int
    n_batch: int
    partitioned: bool = False
    prefix: Literal["any", "whole"] = "any"
    saved_prefix: Literal["any", "whole"] = "any"
    n_rows: int = 0
    pooling: PoolingLimits | None = None
    n_adapters: int = 0
    divides_images: bool = False


class SpecialTokens(Struct, frozen=True):
    """The tokens of a vocabulary that the engine must know.

    `eog` end an answer. `suppressed` must not be drawn, according to the model's file.
    """

    eog: frozenset[int] = frozenset()
    suppressed: frozenset[int] = frozenset()


class Runner(Protocol):
    """Carries out batches. Called only from the thread of the engine's loop.

    `on_decoded` is called in each step between the computation and the drawing.
    """

    on_decoded: Callable[[], None]

    @property
    def limits(self) -> Limits: ...

    @property
    def image_work(self) -> ImageWork:
        """What was done for images so far."""
        ...

    def prepare(self, request: GenerationRequest, is_wanted: Callable[[], bool]) -> GenerationRequest:
        """Do what a request with a constraint, a thinking budget or images needs before it is run. In another thread.

        Returns the request to run. The preparation may end early when the request `is_wanted` no more. Raises the
        WorkerError that refuses the request.
        """
        ...

    def forget(self, request_id: str) -> None:
        """Drop what `prepare` made for a request that will not run."""
        ...

    def computing(self) -> AbstractContextManager[None]:
        """Return the context in which a step is scheduled and run. It may wait for an image that is encoded."""
        ...

    def run(self, batch: Batch) -> StepResult:
        """Carry out the operations in order, decode all chunks, and draw tokens for each chunk that has outputs.

        The result may list the chunks in any order. Neither a failed computation nor an error that a request causes is
        raised: both are part of the result.
        """
        ...

    def close(self) -> None: ...
