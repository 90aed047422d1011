"""The interface between the engine and a draft model: a small model that guesses the next tokens of a larger one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct, field

from worker_gguf.engine.runner import SpecialTokens

__all__ = ["DraftRequest", "DraftStep", "Drafter", "Drafts"]


class DraftRequest(Struct, frozen=True):
    """Ask for `n` guesses after `tokens`, which are all tokens of the sequence in `slot`."""

    slot: int
    tokens: Sequence[int]
    n: int


class DraftStep(Struct, frozen=True):
    """One decode of the draft model: the rows of logits, the further tokens without a row, and the seconds."""

    n_rows: int
    n_prompt: int
    seconds: float


class Drafts(Struct, frozen=True):
    """The guesses for each slot. A slot may have fewer guesses than were asked for, or none.

    `missing` has the number of tokens that the draft model must still read for each slot that has no guesses for this
    reason. `steps` are the decodes that were necessary, in order.
    """

    guesses: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    missing: Mapping[int, int] = field(default_factory=dict)
    steps: tuple[DraftStep, ...] = ()

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)


class Drafter(Protocol):
    """Guesses tokens. Called only from the thread of the engine's loop."""

    @property
    def n_ctx(self) -> int:
        """The maximum number of tokens of a sequence, with its guesses."""
        ...

    @property
    def reads_along(self) -> bool:
        """Whether it reads the tokens of all sequences while they are computed, and so has none to read first."""
        ...

    def adopt(self, special: SpecialTokens) -> None:
        """Use these special tokens. Called before the first request."""
        ...

    def draft(self, requests: Sequence[DraftRequest], most_read: int | None = None) -> Drafts:
        """Guess the next tokens of several sequences, one request for each slot.

        Reads the tokens of each sequence that it has not read yet: in one call at most `most_read` tokens, and never
        more than its own limit. One that reads along has only a few, and reads them all. It may be asked only for a
        sequence of which the model has computed all tokens but the last one: otherwise it would lack the tokens between
        and forget the sequence. Never raises: a failed computation means that there are no guesses.
        """
        ...
