"""The time that a request may take."""

from __future__ import annotations

from worker_gguf.observe.account import Account

__all__ = ["deadline_s", "time_limit_s"]


def time_limit_s(timeout_s: float | None, limit_s: float | None) -> float | None:
    """Return the seconds that a request may take from its arrival: the shorter of its own limit and the worker's."""
    return min((seconds for seconds in (timeout_s, limit_s) if seconds is not None), default=None)


def deadline_s(account: Account, timeout_s: float | None, limit_s: float | None) -> float | None:
    """Return the reading of `time.monotonic()` at which a request has to end, or None."""
    limit_s = time_limit_s(timeout_s, limit_s)
    return None if limit_s is None else account.started_s + limit_s
