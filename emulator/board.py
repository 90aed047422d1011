"""The platform's memory: every job, its worker, its lease, its listeners. Knows nothing of HTTP.

A job is lent to a worker: the worker's pings and posts renew the lease. A worker that lets it lapse, or that is known
to be dead, loses the job to the next worker, a few times at most. Belongs to one event loop; nothing in it awaits.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from emulator.jobs import Job, JobStatus, Signal
from emulator.rules import Policy, Rules

__all__ = ["Board"]

_SWEEP_EVERY_S = 0.1

Listener = Callable[[Job], None]


class Board:
    """All jobs. Each ends once; later messages about it, or messages from another worker, change nothing."""

    def __init__(self, rules: Rules | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.rules = rules or Rules()
        self.jobs: dict[str, Job] = {}
        self.pings: dict[str, list[str]] = {}
        self.unhealthy: dict[str, str] = {}
        self.ready: set[str] = set()
        self.n_retried = 0
        self.queued = Signal()
        self.stopped = Signal()
        self.is_closed = False
        self.listeners: list[Listener] = []
        self._clock = clock
        self._seen_s: dict[str, float] = {}
        self._queue: deque[Job] = deque()
        self._gone: deque[str] = deque()
        self._stops: dict[str, list[str]] = {}
        self._swept_s = clock()

    # --- clients --------------------------------------------------------------------------------------------------

    def submit(self, given: Any, policy: Policy | None = None) -> Job:
        job = Job(given, policy or Policy.of(None, self.rules, retention_s=self.rules.retention_s), self._clock())
        self.jobs[job.id] = job
        self._enqueue(job)
        return job

    def cancel(self, job: Job) -> None:
        if not job.is_over:
            self._stop(job)
            self._end(job, "CANCELLED")

    def retry(self, job: Job) -> bool:
        """Queue a failed or timed-out job again, under its id and without its old output."""
        if job.status not in ("FAILED", "TIMED_OUT"):
            return False
        job.output = job.error = job.worker = job.started_s = job.ended_s = None
        job.n_tries, job.queued_s = 0, self._clock()
        self._forget_chunks(job)
        self._enqueue(job)
        return True

    def purge(self) -> int:
        """Cancel what waits, and say how many that were."""
        waiting = [job for job in self._queue if job.status == "IN_QUEUE"]
        self._queue.clear()
        for job in waiting:
            self._end(job, "CANCELLED")
        return len(waiting)

    def count(self, status: JobStatus) -> int:
        return sum(job.status == status for job in self.jobs.values())

    def workers(self) -> Counter[str]:
        """Return how many workers are running, idle and unhealthy. A worker that has not pinged for a lease is not
        counted.
        """
        oldest_s = self._clock() - self.rules.lease_s
        states = {
            worker: "unhealthy" if worker in self.unhealthy else "running" if self.pings[worker] else "idle"
            for worker, seen_s in self._seen_s.items()
            if seen_s >= oldest_s
        }
        return Counter(states.values())

    # --- workers --------------------------------------------------------------------------------------------------

    def take(self, worker: str, n_jobs: int) -> list[Job]:
        """Lend up to `n_jobs` of those that wait, oldest first."""
        taken: list[Job] = []
        while self._queue and len(taken) < n_jobs:
            job = self._queue.popleft()
            if job.status == "IN_QUEUE":
                self._lend(job, worker)
                taken.append(job)
        return taken

    def append(self, worker: str, job: Job, chunk: Any) -> None:
        if self._holds(worker, job):
            job.chunks += _split(chunk, self.rules.max_chunk_bytes)
            job.changed.notify()

    def finish(self, worker: str, job: Job, result: dict[str, Any]) -> None:
        """Take a post of the SDK: {"output"}, {"error"}, or {"status": "IN_PROGRESS", "output"} as progress."""
        if not self._holds(worker, job):
            return
        job.output = result.get("output")
        if result.get("status") == "IN_PROGRESS":
            job.changed.notify()
            return
        self._end(job, "FAILED" if result.get("error") else "COMPLETED", result.get("error"))

    def ping(self, worker: str, held: list[str]) -> None:
        """Note that a worker lives, and renew the leases of the jobs that it names."""
        self.pings[worker] = held
        self._seen_s[worker] = self._clock()
        for job_id in held:
            if job := self.jobs.get(job_id):
                self._holds(worker, job)

    def take_stops(self, worker: str) -> list[str]:
        """Hand out the ids of the jobs that `worker` should stop."""
        return self._stops.pop(worker, [])

    def gone(self, worker: str) -> None:
        """Note from any thread that a worker's process has ended; the next sweep takes its jobs back."""
        self._gone.append(worker)

    def _drop(self, worker: str) -> None:
        for job in list(self.jobs.values()):
            if job.worker == worker and job.status == "IN_PROGRESS":
                self._take_back(job)
                job.worker = None  # the process that pings for it may outlive it by a moment
        for known in (self.pings, self._seen_s, self._stops, self.unhealthy):
            known.pop(worker, None)
        self.ready.discard(worker)

    # --- time -----------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Apply the changes that time alone makes. Every reader of the board calls it first; it is cheap."""
        while self._gone:
            self._drop(self._gone.popleft())
        now_s = self._clock()
        if now_s - self._swept_s < _SWEEP_EVERY_S:
            return
        self._swept_s = now_s
        for job in list(self.jobs.values()):
            if job.ended_s is not None:
                if now_s - job.ended_s > job.policy.retention_s:
                    del self.jobs[job.id]
            elif now_s - job.queued_s > job.policy.ttl_s:
                self._time_out(job, "The job's ttl was over before it ended.")
            elif job.status == "IN_PROGRESS" and now_s - (job.started_s or now_s) > job.policy.execution_timeout_s:
                self._time_out(job, "The job ran for longer than its executionTimeout.")
            elif job.status == "IN_PROGRESS" and now_s > job.lease_until_s:
                self._take_back(job)

    def come_back(self) -> None:
        """End an outage, during which no worker could ping: every lease begins again, on a new event loop."""
        for signal in (self.queued, self.stopped, *(job.changed for job in self.jobs.values())):
            signal.renew()
        for job in self.jobs.values():
            job.lease_until_s = self._clock() + self.rules.lease_s
        self._seen_s = dict.fromkeys(self._seen_s, self._clock())
        self.is_closed = False

    # --- inside ---------------------------------------------------------------------------------------------------

    def _enqueue(self, job: Job) -> None:
        job.status = "IN_QUEUE"
        self._queue.append(job)
        self._tell(job)
        self.queued.notify()

    def _lend(self, job: Job, worker: str) -> None:
        if job.worker not in (None, worker):
            self._stop(job)  # should the former one live after all
        job.status, job.worker, job.started_s = "IN_PROGRESS", worker, self._clock()
        job.n_tries += 1
        job.lease_until_s = self._clock() + self.rules.lease_s
        self._forget_chunks(job)
        self._tell(job)

    def _holds(self, worker: str, job: Job) -> bool:
        """Return whether the job belongs to this worker. Renews its lease if so, even a lapsed one without another
        taker.
        """
        if job.is_over or job.worker != worker:
            return False
        job.status = "IN_PROGRESS"
        job.lease_until_s = self._clock() + self.rules.lease_s
        return True

    def _take_back(self, job: Job) -> None:
        if job.n_tries >= self.rules.max_tries:
            self._stop(job)
            reason = f"{job.n_tries} workers took the job, and each stopped before it had answered."
            self._end(job, "FAILED", reason)
            return
        self.n_retried += 1
        job.status = "IN_QUEUE"
        self._queue.appendleft(job)
        self._tell(job)
        self.queued.notify()

    def _time_out(self, job: Job, reason: str) -> None:
        self._stop(job)
        self._end(job, "TIMED_OUT", reason)

    def _stop(self, job: Job) -> None:
        if job.worker is not None:
            self._stops.setdefault(job.worker, []).append(job.id)
            self.stopped.notify()

    def _end(self, job: Job, status: JobStatus, error: Any = None) -> None:
        job.status, job.error, job.ended_s = status, error, self._clock()
        job.endings.append(status)
        self._tell(job)

    def _tell(self, job: Job) -> None:
        job.changed.notify()
        for listener in self.listeners:
            listener(job)

    @staticmethod
    def _forget_chunks(job: Job) -> None:
        job.chunks, job.n_read = [], 0


def _split(chunk: Any, most: int) -> list[Any]:
    """Split a text that is too long for one chunk, wherever that falls, as the platform does."""
    text = chunk.get("output") if isinstance(chunk, dict) else None
    if not isinstance(text, str) or len(text.encode("utf-8", "replace")) <= most:
        return [chunk]
    step = max(1, most // 4)  # a character has at most four bytes
    return [{**chunk, "output": text[start : start + step]} for start in range(0, len(text), step)]
