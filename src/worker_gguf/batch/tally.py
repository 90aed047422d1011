"""Counts the results of a running batch and estimates the remaining time. Independent of clocks."""

from __future__ import annotations

from msgspec import Struct

from worker_gguf.batch.dispatch import Result

__all__ = ["Tally"]


class Tally(Struct):
    """The counts of one run. `n_before` of the `n_requests` were answered by earlier runs."""

    n_requests: int
    n_before: int
    started_s: float
    n_done: int = 0
    n_failed: int = 0
    n_tokens: int = 0

    def add(self, result: Result) -> None:
        self.n_done += 1
        self.n_failed += result.error is not None
        self.n_tokens += result.n_tokens

    @property
    def n_answered(self) -> int:
        """Results in the output, those of earlier runs included."""
        return self.n_before + self.n_done

    def seconds_left(self, now_s: float) -> float | None:
        """Estimate the remaining time from the mean rate of this run, or return None before the first result."""
        if not self.n_done:
            return None
        return (self.n_requests - self.n_answered) * (now_s - self.started_s) / self.n_done
