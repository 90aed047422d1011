"""The platform's memory: jobs, who works on them, whom to tell. Knows nothing of HTTP. Belongs to one event loop."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Board", "Job", "JobStatus", "Signal"]

JobStatus = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED"]


_LOOK_AGAIN_S = 0.2


class Signal:
    """Wakes whoever waits now; who comes later waits for the next time."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float = _LOOK_AGAIN_S) -> None:
        """Wait a little while at most: whoever waits has a client that may have hung up, and looks again."""
        try:
            await asyncio.wait_for(self._event.wait(), min(timeout_s, _LOOK_AGAIN_S))
        except TimeoutError:
            return


@dataclass(slots=True)
class Job:
    """One job and all that is known of it. `chunks` are the bodies of its stream posts, `n_read` those given out."""

    input: Any
    id: str = field(default_factory=lambda: f"{uuid.uuid4()}-e1")
    status: JobStatus = "IN_QUEUE"
    worker: str | None = None
    chunks: list[Any] = field(default_factory=list)
    n_read: int = 0
    output: Any = None
    error: Any = None
    queued_s: float = field(default_factory=time.monotonic)
    started_s: float | None = None
    ended_s: float | None = None
    changed: Signal = field(default_factory=Signal)

    @property
    def is_over(self) -> bool:
        return self.status not in ("IN_QUEUE", "IN_PROGRESS")

    def end(self, status: JobStatus) -> None:
        self.status = status
        self.ended_s = time.monotonic()
        self.changed.notify()

    def describe(self) -> dict[str, Any]:
        """Describe it as /status does."""
        said: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.started_s is not None:
            said["delayTime"] = round((self.started_s - self.queued_s) * 1000)
            said["workerId"] = self.worker
            if self.ended_s is not None:
                said["executionTime"] = round((self.ended_s - self.started_s) * 1000)
        if self.output is not None:
            said["output"] = self.output
        if self.error is not None:
            said["error"] = self.error
        return said


class Board:
    """All jobs. Every one ends once; what a worker says of an ended job changes nothing."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.pings: dict[str, list[str]] = {}
        self.queued = Signal()
        self.stopped = Signal()
        self.is_closed = False
        self._queue: deque[Job] = deque()
        self._stops: dict[str, list[str]] = {}

    def submit(self, given: Any) -> Job:
        job = Job(given)
        self.jobs[job.id] = job
        self._queue.append(job)
        self.queued.notify()
        return job

    def take(self, worker: str, n_jobs: int) -> list[Job]:
        """Hand out up to `n_jobs` of those that wait, oldest first."""
        taken: list[Job] = []
        while self._queue and len(taken) < n_jobs:
            job = self._queue.popleft()
            if job.status != "IN_QUEUE":
                continue
            job.status, job.worker, job.started_s = "IN_PROGRESS", worker, time.monotonic()
            job.changed.notify()
            taken.append(job)
        return taken

    def append(self, job: Job, chunk: Any) -> None:
        if not job.is_over:
            job.chunks.append(chunk)
            job.changed.notify()

    def finish(self, job: Job, result: dict[str, Any]) -> None:
        """Take what the SDK posts: {"output"}, {"error"}, or {"status": "IN_PROGRESS", "output"} as progress."""
        if job.is_over:
            return
        job.output = result.get("output")
        if result.get("status") == "IN_PROGRESS":
            job.changed.notify()
            return
        job.error = result.get("error")
        job.end("FAILED" if job.error else "COMPLETED")

    def cancel(self, job: Job) -> None:
        if job.is_over:
            return
        if job.worker is not None:
            self._stops.setdefault(job.worker, []).append(job.id)
            self.stopped.notify()
        job.end("CANCELLED")

    def take_stops(self, worker: str) -> list[str]:
        """Hand out the ids of the jobs that `worker` should stop."""
        return self._stops.pop(worker, [])

    def purge(self) -> int:
        """Cancel what waits, and say how many that were."""
        waiting = [job for job in self._queue if job.status == "IN_QUEUE"]
        for job in waiting:
            job.end("CANCELLED")
        self._queue.clear()
        return len(waiting)

    def count(self, status: JobStatus) -> int:
        return sum(job.status == status for job in self.jobs.values())
