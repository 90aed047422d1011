"""One step as data: memory operations, then rows of tokens, and the result of the step.

The scheduler writes a batch, a runner carries it out, and the scheduler reads the result.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.errors import WorkerError

__all__ = [
    "Batch",
    "Chunk",
    "Close",
    "Copy",
    "Drop",
    "Load",
    "Logprob",
    "Open",
    "Operation",
    "Sampled",
    "Save",
    "Saved",
    "StepResult",
    "Truncate",
]


class Copy(Struct, frozen=True):
    """Make `target` hold the first `n_tokens` tokens of `source`, and nothing else."""

    source: int
    target: int
    n_tokens: int


class Truncate(Struct, frozen=True):
    """Keep the first `n_tokens` tokens of `slot`; 0 empties it."""

    slot: int
    n_tokens: int


class Open(Struct, frozen=True):
    """Start or resume a sequence in `slot` and prepare its sampler. `history` is the list of all its tokens so far."""

    slot: int
    request: GenerationRequest
    history: Sequence[int]


class Close(Struct, frozen=True):
    """Free the sampler of a request that has ended."""

    request_id: str


class Save(Struct, frozen=True):
    """Keep the state of `slot` in main memory, under `key`. The slot does not change."""

    slot: int
    key: int


class Load(Struct, frozen=True):
    """Make `slot` hold the state under `key`, which stays saved, and nothing else."""

    slot: int
    key: int


class Drop(Struct, frozen=True):
    """Forget the state under `key`, if it was saved."""

    key: int


Operation = Copy | Truncate | Open | Close | Save | Load | Drop


class Chunk(Struct, frozen=True):
    """Tokens to append to `slot` at position `start`.

    Each of the last `n_outputs` tokens gets a row of logits. One row draws the token that follows the chunk. With
    several rows, the tokens of all rows but the first are guesses. Each row draws the token that follows its own token,
    and drawing continues with the next row while the drawn token equals the guess. With `scored`, one token for each
    row, nothing is drawn: the row gives the log-probability of that token. With `is_decoding`, the tokens before the
    first row are no part of a prompt: the last step added them to the answer, because its grammar forced them.
    Negative tokens are rows of one image; then all are.
    """

    slot: int
    start: int
    tokens: list[int]
    n_outputs: int
    scored: tuple[int, ...] = ()
    is_decoding: bool = False

    @property
    def has_rows(self) -> bool:
        """It has rows of an image, which are computed apart from tokens."""
        return self.tokens[0] < 0

    @property
    def n_guesses(self) -> int:
        return 0 if self.scored else max(0, self.n_outputs - 1)

    @property
    def guesses(self) -> list[int]:
        return self.tokens[len(self.tokens) - self.n_guesses :]

    @property
    def n_prompt(self) -> int:
        """The number of tokens of a prompt that get no row."""
        return 0 if self.is_decoding else len(self.tokens) - self.n_outputs


class Batch(Struct, frozen=True):
    """One step: all operations in order, then all chunks, computed with `adapters`.

    Each slot has one chunk at most, in slot order.
    """

    operations: tuple[Operation, ...]
    chunks: tuple[Chunk, ...]
    adapters: AdapterSet = ()

    @property
    def n_tokens(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks)


class Logprob(Struct, frozen=True):
    """Log-probability (natural, before any sampler) of a drawn token and of the most likely tokens at its position.

    `top` has (token, log-probability), the most likely first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Sampled(Struct, frozen=True):
    """The tokens drawn for a chunk with outputs, in order. `logprobs` has one entry for each token, or is empty.

    `scored` has one entry for each token of the prompt that the chunk scored; then none was drawn. `forced` has the
    places in `tokens` of those that the grammar forced.
    """

    slot: int
    tokens: tuple[int, ...]
    logprobs: tuple[Logprob, ...] = ()
    scored: tuple[Logprob, ...] = ()
    forced: tuple[int, ...] = ()


class Saved(Struct, frozen=True):
    """A state that was saved: its size, and the time that it took. 0 bytes mean that it could not be saved."""

    key: int
    n_bytes: int
    seconds: float


class StepResult(Struct, frozen=True):
    """The result of a step. With `no_space` the memory is unchanged; with `error` the slots of the chunks are empty.

    Slots whose state could not be loaded, cut or copied are in `lost` and empty; then no chunk was computed.
    `refused` pairs a slot with the error of its sampler, which could not be created or found no token to draw.
    `n_constrained` tokens were held to a grammar, whose masks took `mask_seconds`, mostly during the decode. A change
    of the adapters took `switch_seconds`, which are no part of `decode_seconds`.
    """

    sampled: tuple[Sampled, ...] = ()
    no_space: bool = False
    error: WorkerError | None = None
    refused: tuple[tuple[int, WorkerError], ...] = ()
    saved: tuple[Saved, ...] = ()
    lost: tuple[int, ...] = ()
    decode_seconds: float = 0.0
    sample_seconds: float = 0.0
    n_constrained: int = 0
    mask_seconds: float = 0.0
    switch_seconds: float = 0.0
