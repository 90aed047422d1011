"""The progress of one request in the engine: times and counts, but no content.

The thread that reads the engine's reports writes it. Any thread may read it and may see values that are one step old.
A cancelled request has its counts here, too, although no caller waits for its ending.
"""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Progress", "Tally"]


class Progress(Struct, eq=False):
    """Times are readings of the engine's clock, `time.monotonic`. None means that the event has not happened.

    `admitted_s` is the time at which the request first got a slot. `completion_tokens` does not include the
    end-of-generation token.
    """

    submitted_s: float
    prompt_tokens: int
    admitted_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    cached_tokens: int = 0
    completion_tokens: int = 0


class Tally(Struct, eq=False):
    """Counts of one answer that only its parser knows. The event loop of the request writes and reads it.

    `reasoning_tokens` are part of the answer's tokens. A call that the model has begun counts as a tool call.
    """

    reasoning_tokens: int = 0
    tool_calls: int = 0
