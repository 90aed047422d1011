"""One step as data: memory operations, then rows of tokens, and the result of the step.

The scheduler writes a batch, a runner carries it out, and the scheduler reads the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker_gguf.engine.events import TokenLogprob
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.errors import WorkerError

__all__ = ["Batch", "Chunk", "Close", "Copy", "Open", "Operation", "Sampled", "StepResult", "Truncate"]


@dataclass(frozen=True, slots=True)
class Copy:
    """Make `target` hold the first `n_tokens` tokens of `source`, and nothing else."""

    source: int
    target: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """Keep the first `n_tokens` tokens of `slot`; 0 empties it."""

    slot: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Open:
    """A sequence starts (or starts again) in `slot`: prepare its sampler. `history` is every token it has so far."""

    slot: int
    request: GenerationRequest
    history: Sequence[int]


@dataclass(frozen=True, slots=True)
class Close:
    """The request is over: its sampler can go."""

    request_id: str


Operation = Copy | Truncate | Open | Close


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens to append to `slot` at position `start`.

    Each of the last `n_outputs` tokens gets a row of logits. One row draws the token that follows the chunk. With
    several rows, all tokens but the first of them are guesses: each row draws the token that follows its own, and
    drawing continues with the next row as long as the guess was right.
    """

    slot: int
    start: int
    tokens: list[int]
    n_outputs: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Operations first, in order; then all chunks in one decode. At most one chunk a slot, in slot order."""

    operations: tuple[Operation, ...]
    chunks: tuple[Chunk, ...]

    @property
    def n_tokens(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Sampled:
    """The tokens drawn for a chunk with outputs, in order. `logprobs` has one for each token, or is empty."""

    slot: int
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of a step. With `no_space` the memory is unchanged; with `error` the slots of the chunks are empty.

    `refused` pairs a slot with the reason why its sampler could not be created or found no token to draw.
    """

    sampled: tuple[Sampled, ...] = ()
    no_space: bool = False
    error: WorkerError | None = None
    refused: tuple[tuple[int, WorkerError], ...] = ()
    decode_seconds: float = 0.0
    sample_seconds: float = 0.0
