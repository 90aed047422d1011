"""The scheduler's updates after a step: drawn tokens and ended sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worker_gguf.engine.batch import Logprob
from worker_gguf.engine.sequence import Sequence
from worker_gguf.errors import WorkerError

__all__ = ["Ended", "FinishReason", "Token", "Update"]

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Token:
    """A drawn token that is part of the answer. End-of-generation tokens are not."""

    sequence: Sequence
    token: int
    logprob: Logprob | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The only ending of a sequence."""

    sequence: Sequence
    reason: FinishReason
    error: WorkerError | None = None


Update = Token | Ended
