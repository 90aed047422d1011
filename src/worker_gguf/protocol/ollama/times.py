"""Times and durations as Ollama has them: in UTC by RFC 3339, and in nanoseconds."""

from __future__ import annotations

import time
from functools import lru_cache

__all__ = ["evaluation_times", "nanoseconds", "rfc3339"]


def rfc3339(unix_ns: int) -> str:
    """Return a time, such as `2026-11-29T16:50:11.184789123Z`."""
    seconds, rest = divmod(unix_ns, 1_000_000_000)
    return f"{_seconds(seconds)}.{rest:09d}Z"


def nanoseconds(seconds: float) -> int:
    """Return a duration in nanoseconds. Durations are never negative."""
    return max(0, round(seconds * 1e9))


def evaluation_times(
    admitted_s: float, first_s: float, ended_s: float, n_computed: int, n_generated: int
) -> tuple[int, int]:
    """Return the nanoseconds that the prompt and its answer took.

    Clients divide the tokens of an answer by its time, so this is never 0 if there are any. If all tokens came from the
    step that computed the prompt, that time is divided by the numbers of computed and of generated tokens.
    """
    if n_generated and ended_s <= first_s:
        first_s -= (first_s - admitted_s) * n_generated / (n_computed + n_generated)
    return nanoseconds(first_s - admitted_s), max(nanoseconds(ended_s - first_s), 1 if n_generated else 0)


@lru_cache(maxsize=8)  # the chunks of one second have the same
def _seconds(unix_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_s))
