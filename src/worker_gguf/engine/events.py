"""The events of one request: deltas, then exactly one Finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worker_gguf.errors import WorkerError

__all__ = ["Delta", "Event", "FinishReason", "Finished", "TokenLogprob", "Usage"]

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability (natural, before any sampler) of a drawn token and of the likeliest ones at its place.

    `piece` is the token's bytes; `top` pairs bytes with log-probability, likeliest first.
    """

    token: int
    piece: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one sequence. `cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of a sequence, whole characters only, and the token whose drawing brought it out.

    Text is held back while a character is not whole or it might be the start of a stop text, so it may belong to
    earlier tokens too. A token that brings out neither text nor log-probabilities has no delta.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The one ending of a request. `reason` "error" carries the error; `stop` is the stop text that ended it."""

    reason: FinishReason
    usage: Usage
    stop: str | None = None
    error: WorkerError | None = None


Event = Delta | Finished
