"""The places of an engine: as many as there are slots, and those of the queue. Refuses requests when all are taken."""

from __future__ import annotations

from worker_gguf.errors import InvalidRequest, QueueFull
from worker_gguf.generation.turnover import Turnover

__all__ = ["Places"]


class Places:
    """Counts the places that requests take, and how fast they become free. Used under the lock of its engine."""

    def __init__(self, n_slots: int, max_queue: int) -> None:
        self._n_slots = n_slots
        self._most = n_slots + max_queue
        self._n_taken = 0
        self._turnover = Turnover()

    def take(self, n: int, now_s: float) -> None:
        """Take places. Raises InvalidRequest if there can never be so many, and QueueFull if they are not free."""
        if n > self._most:
            raise InvalidRequest(
                f"{n} answers at once are more than the {self._most} that this worker can take. Ask for fewer, or "
                "raise MAX_QUEUE.",
                param="n",
            )
        if (n_missing := self._n_taken + n - self._most) > 0:
            raise QueueFull.of(self._n_taken, self._most, self.seconds_until(n_missing, now_s))
        self._n_taken += n
        if self._has_queue:
            self._turnover.filled(now_s)

    def free(self, n: int, now_s: float) -> None:
        """Free places of requests that have ended."""
        self._n_taken -= n
        for _ in range(n):
            self._turnover.ended(now_s, is_full=self._has_queue)

    def seconds_until(self, n: int, now_s: float) -> int:
        """Estimate the whole seconds until so many places are free."""
        return self._turnover.seconds_until(n, now_s)

    @property
    def _has_queue(self) -> bool:
        """More places are taken than there are slots."""
        return self._n_taken > self._n_slots
