"""How far one request is in the engine: its times and counts, and nothing of its content.

Written by the engine's thread alone, read by anyone; a read may be a step behind. So a request that was cancelled,
whose ending nobody waits for, has its counts too.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(slots=True, eq=False)
class Progress:
    """Times are of the engine's clock, `time.monotonic`; None is not yet, or never.

    `admitted_s` is when the request first got a slot. `completion_tokens` counts what is part of the answer, a token
    that ends it is not.
    """

    submitted_s: float
    prompt_tokens: int
    admitted_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    cached_tokens: int = 0
    completion_tokens: int = 0
