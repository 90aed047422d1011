"""The scheduler's updates after a step: drawn tokens and ended sequences."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from worker_gguf.engine.batch import Logprob
from worker_gguf.engine.sequence import Sequence
from worker_gguf.errors import DeadlineExceeded, WorkerError

__all__ = ["Ended", "FinishReason", "Scored", "Token", "Update", "timed_out"]

FinishReason = Literal["stop", "length", "cancelled", "error"]


class Token(Struct, frozen=True):
    """A drawn token that is part of the answer. End-of-generation tokens are not."""

    sequence: Sequence
    token: int
    logprob: Logprob | None


class Scored(Struct, frozen=True):
    """The log-probabilities of the next tokens of a prompt, from its second one on."""

    sequence: Sequence
    logprobs: tuple[Logprob, ...]


class Ended(Struct, frozen=True):
    """The only ending of a sequence. `end_token` is the drawn token that ended it, if one did."""

    sequence: Sequence
    reason: FinishReason
    error: WorkerError | None = None
    end_token: int | None = None


Update = Token | Scored | Ended


def timed_out(when: str) -> DeadlineExceeded:
    """Return the error of a request whose time is over. `when` is such as `after 3 tokens`."""
    next_step = "Send a longer timeout, raise REQUEST_TIMEOUT_S, or ask for less."
    return DeadlineExceeded(f"The request timed out {when}. {next_step}")
