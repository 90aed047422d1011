"""The events of one request: any number of deltas, or one Pooled, then exactly one Finished."""

from __future__ import annotations

from msgspec import Struct

from worker_gguf.engine.updates import FinishReason
from worker_gguf.errors import WorkerError

__all__ = ["Delta", "Event", "FinishReason", "Finished", "Pooled", "PromptLogprobs", "TokenLogprob", "Usage"]


class TokenLogprob(Struct, frozen=True):
    """Log-probability (natural, before any sampler) of a token and of the most likely tokens at its position.

    It is None for the first token of a prompt. `piece` is the token's bytes. `top` has (token, bytes, log-probability),
    the most likely first.
    """

    token: int
    piece: bytes
    logprob: float | None
    top: tuple[tuple[int, bytes, float], ...] = ()


class Usage(Struct, frozen=True):
    """Token counts of one sequence. `cached_tokens` counts the prompt tokens that were in memory already."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class Delta(Struct, frozen=True):
    """New text of a sequence, in whole characters, and the tokens since the last delta.

    Text is held back while a character is incomplete or the text may be the start of a stop text. A token with neither
    new text nor log-probabilities comes with the next delta; the last delta may have no text.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


class PromptLogprobs(Struct, frozen=True):
    """The next tokens of the prompt with their log-probabilities, before the first delta."""

    tokens: tuple[TokenLogprob, ...]


class Pooled(Struct, frozen=True):
    """The vector or the scores of an input, as the model gives them: little-endian 32-bit floats, not normalised."""

    values: bytes


class Finished(Struct, frozen=True):
    """The only ending of a request.

    `error` is set if `reason` is "error". `stop` is the stop text that ended it, or `end_token` the token that did,
    which is in no delta.
    """

    reason: FinishReason
    usage: Usage
    stop: str | None = None
    error: WorkerError | None = None
    end_token: int | None = None


Event = PromptLogprobs | Delta | Pooled | Finished
