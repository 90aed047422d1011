"""Waits for a condition that has no event to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["MOST_S", "wait_until"]

MOST_S = 60.0
"""A wait that takes longer has failed. Long enough for a machine that is ten times slower than usual."""


def wait_until(is_so: Callable[[], bool], timeout_s: float = MOST_S) -> None:
    """Poll a condition that has no event to wait for, with a time limit."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, "the condition was not met in time"
        time.sleep(0.002)
