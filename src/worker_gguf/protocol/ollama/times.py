"""Writes times as Ollama does: in UTC with nanoseconds, by RFC 3339."""

from __future__ import annotations

import time
from functools import lru_cache

__all__ = ["nanoseconds", "rfc3339"]


def rfc3339(unix_ns: int) -> str:
    """Return a time, such as `2026-11-29T16:50:11.184789123Z`."""
    seconds, rest = divmod(unix_ns, 1_000_000_000)
    return f"{_seconds(seconds)}.{rest:09d}Z"


def nanoseconds(seconds: float) -> int:
    """Return a duration in nanoseconds. Durations are never negative."""
    return max(0, round(seconds * 1e9))


@lru_cache(maxsize=8)  # the chunks of one second have the same
def _seconds(unix_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_s))
