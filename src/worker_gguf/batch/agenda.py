"""Decides which request is sent next, and which failed request is sent again. Independent of clocks and of the worker.

- At most `width` requests run at the same time. Failed requests are sent again before new ones are sent.
- A request is tried three times if its errors are retryable, the last time alone: a request that ends the engine
  process takes all running requests with it, and only then the others are not among them.
- A request that found the queue full is sent again when another request of the batch ends, because that one leaves its
  place, or else after the time that the refusal names. Meanwhile other requests are sent, and the refusal is no try.
- After any other error that is retryable, nothing is sent for the time that the error names.
- An engine whose process dies three times within some seconds is given up. So after two deaths, nothing is sent for
  that time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.batch.lines import Line
from worker_gguf.errors import EngineCrashed, EngineWedged, QueueFull, WorkerError

__all__ = ["MOST_TRIES", "Agenda", "Attempt"]

MOST_TRIES = 3
_PAUSE_S = 1.0


class Attempt(Struct, frozen=True):
    """One try of a request. `n_tries` counts it too."""

    line: Line
    n_tries: int
    started_s: float

    @property
    def is_alone(self) -> bool:
        return self.n_tries == MOST_TRIES


class Agenda:
    """Call `next` until it returns None, and `ended` once for each attempt. All times are from one clock."""

    def __init__(self, lines: Iterator[Line], width: int, deaths_within_s: float = 60.0) -> None:
        self._lines = lines
        self._width = width
        self._deaths_within_s = deaths_within_s
        self._again: deque[Attempt] = deque()
        self._refused: deque[tuple[float, Attempt]] = deque()  # by a full queue, with the time to send each again
        self._deaths: deque[float] = deque(maxlen=2)
        self._n_running = 0
        self._is_alone = False
        self._hold_until_s = 0.0

    def next(self, now_s: float) -> Attempt | None:
        """Return the attempt to start now, or None."""
        self._take_back_refused(now_s)
        if now_s < self._hold_until_s or self._n_running >= self._width or self._is_alone:
            return None
        if self._again:
            if self._again[0].is_alone and self._n_running:
                return None
            attempt = replace(self._again.popleft(), started_s=now_s)
        # Refused requests count, or else a full queue would let the whole input be read into memory.
        elif self._n_running + len(self._refused) < self._width and (line := next(self._lines, None)) is not None:
            attempt = Attempt(line, 1, now_s)
        else:
            return None
        self._n_running += 1
        self._is_alone = attempt.is_alone
        return attempt

    def wait_s(self, now_s: float) -> float | None:
        """Return the seconds until `next` may return an attempt, or None if that does not depend on time.

        Call it after `next` has returned None at the same time.
        """
        if self._hold_until_s > now_s:
            return self._hold_until_s - now_s
        return min((until_s for until_s, _ in self._refused), default=now_s) - now_s or None

    def ended(self, attempt: Attempt, error: WorkerError | None, now_s: float) -> bool:
        """Note the end of an attempt. Returns whether it is the last one of its request."""
        self._n_running -= 1
        self._is_alone = False
        if isinstance(error, QueueFull):
            self._refused.append((_after(error, now_s), attempt))
            return False
        if self._refused:
            self._again.append(self._refused.popleft()[1])
        if error is None or not error.retryable:
            return True
        self._hold(_after(error, now_s))
        if isinstance(error, EngineCrashed | EngineWedged):
            self._note_death(attempt, now_s)
        if attempt.n_tries == MOST_TRIES:
            return True
        self._again.append(replace(attempt, n_tries=attempt.n_tries + 1))
        return False

    def _take_back_refused(self, now_s: float) -> None:
        """Send the requests again whose time is over."""
        due = [attempt for until_s, attempt in self._refused if until_s <= now_s]
        if due:
            self._again.extend(due)
            self._refused = deque(entry for entry in self._refused if entry[0] > now_s)

    def _note_death(self, attempt: Attempt, now_s: float) -> None:
        if not self._deaths or attempt.started_s > self._deaths[-1]:  # else it is the death that was noted last
            self._deaths.append(now_s)
        if len(self._deaths) == self._deaths.maxlen:
            self._hold(self._deaths[0] + self._deaths_within_s)

    def _hold(self, until_s: float) -> None:
        self._hold_until_s = max(self._hold_until_s, until_s)


def _after(error: WorkerError, now_s: float) -> float:
    """Return the time when a request with this error may be sent again."""
    return now_s + (error.retry_after_s or _PAUSE_S)
