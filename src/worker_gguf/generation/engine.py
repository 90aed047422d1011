"""An engine, as the worker uses it: submits requests to an engine process and delivers their events.

When the process ends by itself, its requests end with an error and another process takes its place.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from worker_gguf.engine.request import GenerationRequest, PoolingRequest
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.stats import EngineStats
from worker_gguf.engine.updates import FinishReason
from worker_gguf.errors import EngineCrashed, NotReady, WorkerError
from worker_gguf.generation.answers import Answers, Pieces
from worker_gguf.generation.measures import measure
from worker_gguf.generation.places import Places
from worker_gguf.generation.progress import Progress
from worker_gguf.generation.stream import EventStream, deliver
from worker_gguf.latch import Latch
from worker_gguf.link.messages import Command, Finish, Report, Step, Stop
from worker_gguf.link.process import EngineDied

__all__ = ["MOST_DEATHS", "Engine", "Link", "Revive", "State"]

logger = logging.getLogger(__name__)

MOST_DEATHS = 3
"""An engine is given up when its process has died so often within the window."""

Revive = Callable[[Callable[[], bool]], "Link"]
"""Starts another process with the same model and limits. Gives up when its argument returns False."""
State = Literal["running", "reloading", "given up", "stopped"]


class Link(Protocol):
    """The connection to an engine process that serves. `EngineProcess` implements it."""

    def send(self, command: Command) -> None: ...

    def receive(self) -> Report:
        """Return the next report. Raises EngineDied."""
        ...

    def kill(self, why: str | None = None) -> None: ...

    def end(self) -> None:
        """Wait for the end of the process, kill it if it takes too long, and free what belongs to it."""
        ...


class Engine:
    """Runs requests in parallel. Call `start` once and `stop` once. Methods can be called from any thread."""

    def __init__(
        self,
        link: Link,
        limits: Limits,
        pieces: Pieces,
        *,
        max_queue: int,
        queue_timeout_s: float | None = None,
        revive: Revive | None = None,
        deaths_within_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """At most `max_queue` requests may wait, each for at most `queue_timeout_s`.

        `revive` is called in the engine's thread after a process has died, unless that was the third death within
        `deaths_within_s` seconds. Without `revive`, the first death is final.
        """
        self.limits = limits
        self.max_queue = max_queue
        self.stats = EngineStats(limits.n_slots, limits.n_cells, max_queue)
        self.state: State = "running"
        self.failure: WorkerError | None = None
        """The reason why the engine was given up."""
        self.n_turns = 0
        """Reports of the process so far. A watchdog reads it to see whether the process still works."""
        self.n_deaths = 0
        self._on_given_up: Callable[[WorkerError], None] = lambda error: None
        self._link = link
        self._revive = revive
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self._deaths_within_s = deaths_within_s
        self._cause: WorkerError | None = None
        self._answers = Answers(pieces, self.stats)
        self._queue_timeout_s = queue_timeout_s
        self._clock = clock
        self._places = Places(limits.n_slots, max_queue)
        self._lock = threading.Lock()
        self._on_idle: list[Latch] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to deliver events."""
        self._thread.start()

    def watch(self, on_given_up: Callable[[WorkerError], None]) -> None:
        """Call `on_given_up` when the engine is given up, or now if it has been already."""
        with self._lock:
            self._on_given_up = on_given_up
            failure = self.failure
        if failure is not None:
            on_given_up(failure)

    def stop(self) -> None:
        """End all requests as cancelled and end the process, which gives back all its memory."""
        with self._changing():
            self._stopping = True
            self._end_all("cancelled")
            link = self._link
        link.send(Stop())
        link.end()
        if self._thread.ident is not None:
            self._thread.join()
        self.state = "stopped"

    # --- requests -------------------------------------------------------------------------------------------------

    def submit(
        self, *requests: GenerationRequest | PoolingRequest, on_ended: Callable[[], None] | None = None
    ) -> EventStream:
        """Submit requests as one group, of the kind that the model serves. Call it on the loop that reads the stream.

        Each answer takes a place in the queue, but all inputs of a model that pools take one together.

        Raises InvalidRequest if the worker can never take so many, QueueFull if it cannot take them now, and NotReady
        if the engine is stopping or given up. Later failures arrive as the ending of a request. Requests that arrive
        while another process loads the model wait for it. `on_ended` is called from another thread when all requests
        have ended.
        """
        now_s = self._clock()
        progress = tuple(Progress(now_s, len(request.prompt)) for request in requests)
        stream = EventStream(tuple(request.id for request in requests), self.cancel, progress, on_ended)
        with self._lock:
            if self.failure is not None:
                raise NotReady(self.failure.message)
            if self._stopping:
                raise NotReady("The worker is stopping and accepts no more requests.")
            self._places.take(1 if self.limits.pooling else len(requests), now_s)
            numbers: list[int] = []
            for index, request in enumerate(requests):
                # Only the first request of a group must start in time: the others may have to wait for each other.
                start_by_s = None if index or self._queue_timeout_s is None else now_s + self._queue_timeout_s
                numbers.append(self._answers.open(request, stream, index, start_by_s))
            if self.is_running:
                self._send(numbers)
        return stream

    def _send(self, numbers: Iterable[int]) -> None:
        for command in self._answers.commands(numbers):
            self._link.send(command)

    def cancel(self, request_id: str) -> None:
        """Cancel a request. Its slot is free before a later request needs it. Does nothing if it has ended."""
        with self._changing():
            if (number := self._answers.number_of(request_id)) is not None:
                self._end(number, "cancelled")

    def cut_off(self, error: WorkerError) -> None:
        """End every open request with this error."""
        with self._changing():
            self._end_all("error", error)

    def kill(self, error: WorkerError) -> None:
        """End the process, because it hangs. Its requests end with `error`, and another process takes its place."""
        with self._lock:
            self._cause = error
            self._link.kill(error.message)

    @property
    def is_running(self) -> bool:
        """A process serves. It is False while another process loads the model."""
        return self.state == "running"

    @property
    def n_open(self) -> int:
        """Number of submitted requests that have not ended."""
        return len(self._answers)

    async def idle(self) -> None:
        """Return when no request is open."""
        with self._lock:
            if not self.n_open:
                return
            latch = Latch()
            self._on_idle.append(latch)
        await latch.wait()

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                while True:
                    report = self._link.receive()
                    if isinstance(report, Step):
                        self._take(report)
            except EngineDied as death:
                if not self._recover(str(death)):
                    return

    def _take(self, step: Step) -> None:
        with self._changing():
            self.n_turns += 1
            measure(self.stats, step)
            for number in self._answers.step(step):
                self._link.send(Finish(number=number))
                self._count_ending("stop")
            for _ in self._answers.pooled(step):
                self._count_ending("stop")
            for ending in step.endings:
                retry_after_s = self._places.seconds_until(1, step.time_s)
                if (reason := self._answers.ended(ending, step.time_s, retry_after_s)) is not None:
                    self._count_ending(reason)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock, and deliver the new events after it is released: their callbacks may take other locks."""
        with self._lock:
            yield
            self._places.free(self._answers.take_freed(), self._clock())
            outbox = self._answers.collect()
        deliver(outbox)

    def _end(self, number: int, reason: FinishReason, error: WorkerError | None = None) -> None:
        """End an open answer here, and its request in the process, if one serves."""
        if self.is_running:
            self._link.send(Finish(number=number))
        self._answers.end(number, reason, self._clock(), error)
        self._count_ending(reason)

    def _end_all(self, reason: FinishReason, error: WorkerError | None = None) -> None:
        for number in self._answers.numbers():
            self._end(number, reason, error)

    def _count_ending(self, reason: str) -> None:
        self.stats.finished[reason] += 1
        if not self.n_open:
            waiting, self._on_idle = self._on_idle, []
            for latch in waiting:
                latch.set()

    # --- after the end of a process ---------------------------------------------------------------------------------

    def _recover(self, why: str) -> bool:
        """End the requests of the dead process and start another one. Returns False if there is to be no other."""
        with self._changing():
            if self._stopping:
                return False
            self._died(why)
            given_up = self._why_given_up()
        self._link.end()
        while given_up is None and self._revive is not None:
            try:
                link = self._revive(lambda: not self._stopping)
            except (EngineDied, WorkerError) as error:
                why = str(error)
                if (given_up := self._note_failed_reload(why)) is not None or self._stopping:
                    break
            else:
                return self._goes_on(link)
        if not self._stopping:
            self._give_up(given_up or why)
        return False

    def _note_failed_reload(self, why: str) -> str | None:
        with self._changing():
            self._died(why)
            return self._why_given_up()

    def _died(self, why: str) -> None:
        """Note the death of a process. Its requests end; those that arrive from now on wait for the next process."""
        self.n_deaths += 1
        self._deaths.append(self._clock())
        is_first = self.is_running
        self.state = "reloading"
        self.stats.busy_slots = self.stats.held_tokens = self.stats.saved_bytes = 0
        error, self._cause = self._cause, None
        logger.error("engine process died", extra={"reason": why, "requests": self.n_open if is_first else 0})
        if is_first:
            self._end_all("error", error or EngineCrashed.because(why))

    def _why_given_up(self) -> str | None:
        within_s = self._clock() - self._deaths[0]
        is_often = len(self._deaths) == MOST_DEATHS and within_s < self._deaths_within_s
        if not is_often:
            return None
        return (
            f"The engine process died {MOST_DEATHS} times within {self._deaths_within_s:g} s, so it is not started "
            "again. The log has the reason of each death."
        )

    def _goes_on(self, link: Link) -> bool:
        with self._lock:
            if self._stopping:
                link.kill()
                link.end()
                return False
            self._link, self.state = link, "running"
            self._send(self._answers.numbers())
        logger.info("engine process replaced", extra={"deaths": self.n_deaths})
        return True

    def _give_up(self, why: str) -> None:
        error = EngineCrashed(why)
        with self._changing():
            self.state, self.failure = "given up", error
            self._end_all("error", error)
        logger.critical("engine given up", extra={"reason": why})
        self._on_given_up(error)
