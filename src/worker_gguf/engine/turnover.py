"""Measures how fast requests end while others wait, for the Retry-After of a refusal. Takes times, reads no clock."""

from __future__ import annotations

from math import ceil
from typing import Final

__all__ = ["Turnover"]

# Weight of the newest interval in the running mean; roughly the last ten count.
_WEIGHT: Final = 0.2
_LONGEST_S: Final = 120


class Turnover:
    """Seconds between endings, counted only while requests wait: the pauses of an idle worker would distort the mean.

    The engine's thread writes it and any thread reads it.
    """

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._last_s: float | None = None

    def filled(self, now_s: float) -> None:
        """Requests wait from now on, if they did not before."""
        if self._last_s is None:
            self._last_s = now_s

    def ended(self, now_s: float, *, is_full: bool) -> None:
        """Note that a request ended and freed a place. `is_full` means that others still wait."""
        if self._last_s is not None:
            seconds = now_s - self._last_s
            self._mean_s = seconds if self._mean_s is None else self._mean_s + _WEIGHT * (seconds - self._mean_s)
        self._last_s = now_s if is_full else None

    def seconds_until(self, n_places: int, now_s: float) -> int:
        """Whole seconds, at least 1, until so many requests will have ended. An ending takes no less than what has
        passed since the last one, or since requests began to wait."""
        passed_s = 0.0 if self._last_s is None else now_s - self._last_s
        mean_s = max(self._mean_s or 0.0, passed_s)
        return max(1, min(ceil(mean_s * n_places), _LONGEST_S))
