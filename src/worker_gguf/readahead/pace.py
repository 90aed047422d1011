"""Decides how many readers a volume is worth, from the pieces that they have read so far. Pure, without a clock.

A mount whose reads are slow but independent is faster with more readers; one whose processor is the bottleneck is
slower. So the number doubles while that adds throughput and then returns to the best number. If more readers never
helped, fewer are tried.
"""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["FIRST_READERS", "MOST_READERS", "Pace"]

FIRST_READERS: Final = 4
MOST_READERS: Final = 32

WINDOW_S: Final = 0.05
"""Shortest time over which a number of readers is judged."""
HOLD_S: Final = (0.4, 4.0)
"""Seconds for which a choice stands before more readers are tried again: the first and the longest, doubling each time.
One window may have been chance, and volumes are shared.
"""
GAIN: Final = 1.15
"""Twice the readers must bring this many times the bytes to be worth their processor time. A reader announces 2 MiB at
once, so a few keep a volume busy, and a smaller gain is mostly noise.
"""
LOSS: Final = 0.95
"""Half the readers may bring this little and still be chosen."""


class Pace:
    """Call it under the lock of the readers. `done` counts a finished piece; `readers` is the number of readers to
    run.
    """

    def __init__(self, now_s: float, *, first: int = FIRST_READERS, most: int = MOST_READERS) -> None:
        self.readers = min(first, most)
        self._first = self.readers
        self._most = most
        self._best: tuple[int, float] | None = None
        self._trying: Literal["more", "fewer", "nothing"] = "more"
        self._hold_s = HOLD_S[0]
        self._open_window(now_s, self.readers)

    def done(self, n_bytes: int, now_s: float) -> None:
        """Count a piece. Pieces that began under the previous number of readers are awaited and not counted."""
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
                # More did not help. If that was the first step, perhaps even the first number is too many.
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

    def _open_window(self, now_s: float, n_under_way: int) -> None:
        self._unsettled = n_under_way
        self._since_s = now_s
        self._bytes = self._pieces = 0
