"""Waits for a condition that has no event to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["wait_until"]


def wait_until(is_so: Callable[[], bool], timeout_s: float = 10) -> None:
    """Poll a condition that has no event to wait for, with a time limit."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, "the condition was not met in time"
        time.sleep(0.002)
