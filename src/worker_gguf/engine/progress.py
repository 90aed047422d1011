"""The progress of one request in the engine: times and counts, nothing of its content.

The engine's thread writes it and any thread reads it, perhaps one step late. A cancelled request has its counts here,
too, although no caller waits for its ending.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(slots=True, eq=False)
class Progress:
    """Times are of the engine's clock, `time.monotonic`; None means not yet, or never.

    `admitted_s` is the time at which the request first got a slot. `completion_tokens` counts the tokens of the answer,
    without the one that ends it.
    """

    submitted_s: float
    prompt_tokens: int
    admitted_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    cached_tokens: int = 0
    completion_tokens: int = 0
