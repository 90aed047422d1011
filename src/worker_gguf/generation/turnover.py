"""Measures how fast requests end while others wait, for the Retry-After of a refusal. Reads no clock."""

from __future__ import annotations

from math import ceil
from typing import Final

__all__ = ["Turnover"]

# Weight of the newest interval in the running mean; roughly the last ten count.
_WEIGHT: Final = 0.2
_LONGEST_S: Final = 120


class Turnover:
    """Mean seconds between endings. Counts only while requests wait: pauses of an idle worker would distort it.

    Used under the lock of its engine.
    """

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._last_s: float | None = None

    def filled(self, now_s: float) -> None:
        """Record that requests wait from now on. Does nothing if they waited already."""
        if self._last_s is None:
            self._last_s = now_s

    def ended(self, now_s: float, *, is_full: bool) -> None:
        """Record that a request ended and freed a place. `is_full` means that others still wait."""
        if self._last_s is not None:
            seconds = now_s - self._last_s
            self._mean_s = seconds if self._mean_s is None else self._mean_s + _WEIGHT * (seconds - self._mean_s)
        self._last_s = now_s if is_full else None

    def seconds_until(self, n_places: int, now_s: float) -> int:
        """Estimate the whole seconds, from 1 to 120, until `n_places` requests will have ended.

        One ending takes at least the time since the last one, or since requests began to wait.
        """
        passed_s = 0.0 if self._last_s is None else now_s - self._last_s
        mean_s = max(self._mean_s or 0.0, passed_s)
        return max(1, min(ceil(mean_s * n_places), _LONGEST_S))
