"""Decides how many readers to use for a volume, by their throughput so far. Reads no files and no clock.

If the reads of a mount are slow but independent, more readers increase the throughput. If the processor is the
bottleneck, they decrease it. So the number is doubled as long as that increases the throughput, and then set to the
best one. If more readers never helped, fewer are tried.
"""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["FIRST_READERS", "MOST_READERS", "Pace"]

FIRST_READERS: Final = 4
MOST_READERS: Final = 32

WINDOW_S: Final = 0.05
"""The shortest time for which the throughput of a number of readers is measured."""
HOLD_S: Final = (0.4, 4.0)
"""The seconds for which a choice is kept before more readers are tried again: the first time, doubled each time up to
the second. More readers are tried again because one measurement may be random and volumes are shared.
"""
GAIN: Final = 1.15
"""Twice as many readers are used only if they increase the throughput by this factor, because they need processor time.
A reader announces 2 MiB at a time, so a few readers keep a volume busy, and a smaller gain is mostly noise.
"""
LOSS: Final = 0.95
"""Half as many readers are used if they reach at least this fraction of the throughput."""


class Pace:
    """Chooses `readers`, the number of readers to run. Call its methods while holding the readers' lock."""

    def __init__(self, now_s: float, *, first: int = FIRST_READERS, most: int = MOST_READERS) -> None:
        self.readers = min(first, most)
        self._first = self.readers
        self._most = most
        self._best: tuple[int, float] | None = None
        self._trying: Literal["more", "fewer", "nothing"] = "more"
        self._hold_s = HOLD_S[0]
        self._open_window(now_s, self.readers)

    def done(self, n_bytes: int, now_s: float) -> None:
        """Count a finished piece of a file. Pieces that were started with another number of readers are not counted."""
        if self._unsettled:
            self._unsettled -= 1
            self._since_s = now_s
            return
        self._bytes += n_bytes
        self._pieces += 1
        elapsed_s = now_s - self._since_s
        least_s = self._hold_s if self._trying == "nothing" else WINDOW_S
        if self._pieces >= self.readers and elapsed_s >= least_s:
            before = self.readers
            self._judge(self._bytes / elapsed_s)
            self._open_window(now_s, max(before, self.readers))

    def _judge(self, bytes_per_s: float) -> None:
        match self._trying:
            case "more" if self._best is None or bytes_per_s >= self._best[1] * GAIN:
                self._best = (self.readers, bytes_per_s)
                self._try_or_hold("more", min(self.readers * 2, self._most))
            case "more":
                # More readers did not help. If this was the first step, even the first number may be too large.
                self.readers = self._best[0] if self._best else self.readers
                self._try_or_hold("fewer" if self.readers == self._first else "nothing", self.readers // 2)
            case "fewer" if self._best is None or bytes_per_s >= self._best[1] * LOSS:
                self._best = (self.readers, bytes_per_s)
                self._try_or_hold("fewer", self.readers // 2)
            case "fewer":
                self.readers = self._best[0] if self._best else self.readers
                self._trying = "nothing"
            case "nothing":
                self._best, self._first = (self.readers, bytes_per_s), 0
                self._hold_s = min(self._hold_s * 2, HOLD_S[1])
                self._try_or_hold("more", min(self.readers * 2, self._most))

    def _try_or_hold(self, what: Literal["more", "fewer", "nothing"], readers: int) -> None:
        if what == "nothing" or readers in (0, self.readers):
            self._trying = "nothing"
        else:
            self._trying, self.readers = what, readers

    def _open_window(self, now_s: float, n_started: int) -> None:
        self._unsettled = n_started
        self._since_s = now_s
        self._bytes = self._pieces = 0
