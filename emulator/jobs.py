"""One job and the signal that wakes its waiters. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from emulator.rules import Policy

__all__ = ["Job", "JobStatus", "Signal"]

JobStatus = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]

_LOOK_AGAIN_S = 0.2


class Signal:
    """Wakes the present waiters; later ones wait for the next time."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    def renew(self) -> None:
        """Forget the waiters, because their event loop is gone."""
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float = _LOOK_AGAIN_S) -> None:
        """Wait for a short time at most: the waiter's client may have hung up, so it must look again."""
        try:
            await asyncio.wait_for(self._event.wait(), min(timeout_s, _LOOK_AGAIN_S))
        except TimeoutError:
            return


@dataclass(slots=True)
class Job:
    """One job and all that is known of it; the board alone writes it.

    `chunks` are the bodies of its stream posts, `n_read` those given out. `n_tries` counts the workers that took it.
    """

    input: Any
    policy: Policy
    queued_s: float
    id: str = field(default_factory=lambda: f"{uuid.uuid4()}-e1")
    status: JobStatus = "IN_QUEUE"
    worker: str | None = None
    n_tries: int = 0
    lease_until_s: float = 0.0
    chunks: list[Any] = field(default_factory=list)
    n_read: int = 0
    output: Any = None
    error: Any = None
    started_s: float | None = None
    ended_s: float | None = None
    endings: list[JobStatus] = field(default_factory=list)
    """Every ending it ever had: one, but for a job that a client had retried."""
    changed: Signal = field(default_factory=Signal)

    @property
    def is_over(self) -> bool:
        return self.status not in ("IN_QUEUE", "IN_PROGRESS")

    def describe(self) -> dict[str, Any]:
        """Describe it as /status does."""
        said: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.started_s is not None:
            said["delayTime"] = round((self.started_s - self.queued_s) * 1000)
            said["workerId"] = self.worker
            if self.ended_s is not None:
                said["executionTime"] = round((self.ended_s - self.started_s) * 1000)
        if self.n_tries > 1:
            said["retries"] = self.n_tries - 1
        if self.output is not None:
            said["output"] = self.output
        if self.error is not None:
            said["error"] = self.error
        return said
