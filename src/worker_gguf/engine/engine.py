"""The engine: one thread that owns the scheduler and the runner, behind a thread-safe interface."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from worker_gguf.engine.answers import Answers
from worker_gguf.engine.batch import Batch, StepResult
from worker_gguf.engine.commands import Add, Address, Cancel, Command, CutOff, Stop
from worker_gguf.engine.events import Finished, Usage
from worker_gguf.engine.progress import Progress
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.runner import Limits, Runner
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.engine.stats import EngineStats
from worker_gguf.engine.stream import Courier, EventStream, Outbox
from worker_gguf.engine.turnover import Turnover
from worker_gguf.engine.updates import Token, Update
from worker_gguf.errors import EngineFailed, InvalidRequest, NotReady, QueueFull, WorkerError
from worker_gguf.latch import Latch

__all__ = ["Engine"]

logger = logging.getLogger(__name__)


class Engine:
    """Runs requests in parallel. Call `start` once and `stop` once."""

    def __init__(
        self,
        runner: Runner,
        piece: Callable[[int], bytes],
        *,
        max_queue: int,
        queue_timeout_s: float | None = None,
        prefill_chunk: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """At most `max_queue` requests may wait, each for at most `queue_timeout_s`.

        `piece` returns a token's bytes.
        """
        self.runner = runner
        self.stats = EngineStats(runner.limits.n_slots, runner.limits.n_cells, max_queue)
        self._answers = Answers(piece, self.stats, clock)
        self._clock = clock
        self._queue_timeout_s = queue_timeout_s
        self._turnover = Turnover()
        self._scheduler = Scheduler(runner.limits, max_queue=max_queue, prefill_chunk=prefill_chunk)
        self._inbox: SimpleQueue[Command] = SimpleQueue()
        self._courier = Courier()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._lock = threading.Lock()
        self._on_idle: list[Latch] = []
        self._n_submitted = 0
        self._n_ended = 0
        self._stopping = False
        self._is_abandoned = False
        self.n_turns = 0
        """Turns of the thread's loop so far. A watchdog reads it to see whether the thread still works."""

    @property
    def limits(self) -> Limits:
        return self.runner.limits

    @property
    def max_queue(self) -> int:
        return self._scheduler.max_queue

    # --- for any thread -------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._courier.start()
        self._thread.start()

    def stop(self) -> None:
        """End all requests as cancelled, end the thread and free the model's memory."""
        with self._lock:
            self._stopping = True
            self._inbox.put(Stop())
        self._thread.join()
        self._courier.stop()
        self.runner.close()

    def submit(self, *requests: GenerationRequest, on_ended: Callable[[], None] | None = None) -> EventStream:
        """Submit requests as one group. Call it on the event loop that reads the stream.

        Raises InvalidRequest if the worker can never take so many, QueueFull if it cannot take them now, and NotReady
        if the engine is stopping. Later failures arrive as the ending of a request. `on_ended` is called from another
        thread when all requests have ended and their slots are free.
        """
        now_s = self._clock()
        progress = tuple(Progress(now_s, len(request.prompt)) for request in requests)
        stream = EventStream(tuple(request.id for request in requests), self.cancel, progress, on_ended)
        with self._lock:
            if self._stopping:
                raise NotReady("The worker is stopping and accepts no more requests.")
            self._check_room(len(requests))
            self._n_submitted += len(requests)
            # Inside the lock, so that no request is put into the inbox after the command that ends the thread.
            for index, request in enumerate(requests):
                # Only the first request of a group must start in time: the others may have to wait for each other.
                start_by_s = None if index else self._start_by_s()
                self._inbox.put(Add(request, Address(stream, index), start_by_s))
        return stream

    def _check_room(self, n: int) -> None:
        most = self.limits.n_slots + self.max_queue
        if n > most:
            raise InvalidRequest(
                f"{n} answers at once are more than the {most} that this worker can take. Ask for fewer, or raise "
                "MAX_QUEUE.",
                param="n",
            )
        if self.n_open + n > most:
            n_missing = self.n_open + n - most
            raise QueueFull.of(self.n_open, most, self._turnover.seconds_until(n_missing, self._clock()))

    def _start_by_s(self) -> float | None:
        return None if self._queue_timeout_s is None else self._clock() + self._queue_timeout_s

    def cancel(self, request_id: str) -> None:
        """Cancel a request, from any thread. Its slot is free before the next step. Does nothing if it has ended."""
        self._inbox.put(Cancel(request_id))

    def cut_off(self, error: WorkerError) -> None:
        """End every open request with this error, from any thread."""
        self._inbox.put(CutOff(error))

    def abandon(self, error: WorkerError) -> None:
        """End every open request with this error while the engine's thread is stuck in a step. For any thread.

        The engine accepts no more requests. Its thread ends if the step ever returns.
        """
        outbox: Outbox = {}
        with self._lock:
            self._stopping = self._is_abandoned = True
            addresses = self._answers.addresses()
            with contextlib.suppress(Empty):
                while True:
                    if isinstance(command := self._inbox.get_nowait(), Add):
                        addresses.append(command.address)
            self._n_ended = self._n_submitted
            waiting, self._on_idle = self._on_idle, []
        for stream, index in ((address.stream, address.index) for address in addresses):
            outbox.setdefault(stream, {})[index] = [Finished("error", Usage(0, 0, 0), error=error)]
        self._courier.send(outbox)
        for latch in waiting:
            latch.set()

    @property
    def n_open(self) -> int:
        """Number of submitted requests that have not ended."""
        return self._n_submitted - self._n_ended

    @property
    def _is_full(self) -> bool:
        """More requests are open than there are slots."""
        return self.n_open > self.limits.n_slots

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
        goes_on = True
        while goes_on and not self._is_abandoned:
            self.n_turns += 1
            try:
                goes_on = self._take_commands()
                if goes_on:
                    self._step()
            except Exception:
                # This is a bug, not the fault of a request. Every request ends with an error, and the next one starts
                # with an empty memory.
                logger.exception("engine step failed")
                self._take(self._scheduler.reset(EngineFailed("The engine failed; see the log.")))
            self._publish()
        self._take(self._scheduler.finish_all("cancelled"))
        self._publish()

    def _step(self) -> None:
        now_s = self._clock()
        if expired := self._scheduler.expire(now_s, self._turnover.seconds_until(1, now_s)):
            self._take(expired)
            self._publish()  # at once, because the decode may take long
        started = time.perf_counter()
        batch = self._scheduler.schedule()
        self.stats.schedule_seconds += time.perf_counter() - started
        if batch is None:
            return
        if batch.operations:
            self._answers.admitted(batch)
        self._take(self._scheduler.commit(batch, self._compute(batch)))

    def _compute(self, batch: Batch) -> StepResult:
        if batch.chunks:
            self.stats.count_batch(batch.n_tokens)
        result = self.runner.run(batch)
        self.stats.decode_seconds += result.decode_seconds
        self.stats.sample_seconds += result.sample_seconds
        return result

    def _take_commands(self) -> bool:
        """Apply the commands in the inbox; wait for one if there is nothing else to do. False ends the thread."""
        while True:
            try:
                command = self._inbox.get(block=self._scheduler.is_idle)
            except Empty:
                return True
            if isinstance(command, Stop):
                return False
            self._apply(command)
            self._publish()

    def _apply(self, command: Add | Cancel | CutOff) -> None:
        if isinstance(command, Cancel):
            self._take(self._scheduler.finish(command.request_id, "cancelled"))
            return
        if isinstance(command, CutOff):
            self._take(self._scheduler.finish_all("error", command.error))
            return
        request, address = command.request, command.address
        try:
            self._scheduler.add(request, command.start_by_s)
        except WorkerError as error:
            self._refuse(request, address, error)
            return
        except AssertionError:  # a bug in the caller, but its request still gets an ending
            logger.exception("the scheduler refused a request that the service should have refused")
            self._refuse(request, address, EngineFailed("The engine cannot take this request; see the log."))
            return
        self._answers.open(request, address)
        if self._is_full:
            self._turnover.filled(self._clock())

    def _refuse(self, request: GenerationRequest, address: Address, error: WorkerError) -> None:
        self._answers.refuse(request, address, error)
        self._count_ending("refused")

    # --- updates --------------------------------------------------------------------------------------------------

    def _take(self, updates: list[Update]) -> None:
        stopped: list[str] = []
        for update in updates:
            if not isinstance(update, Token):
                if (reason := self._answers.ended(update)) is not None:
                    self._count_ending(reason)
            elif self._answers.token(update):
                stopped.append(update.sequence.id)
        # The scheduler sees tokens and no text, so only here can a stop text end a sequence. It ends after the loop,
        # because the step may have drawn more tokens after the stop text.
        for request_id in stopped:
            self._take(self._scheduler.finish(request_id, "stop"))

    def _count_ending(self, reason: str) -> None:
        self.stats.finished[reason] += 1
        self._measure()  # before the request counts as ended, so that a caller of idle() reads the new figures
        with self._lock:
            self._n_ended += 1
            self._turnover.ended(self._clock(), is_full=self._is_full)
            waiting, self._on_idle = ([], self._on_idle) if self.n_open else (self._on_idle, [])
        for latch in waiting:
            latch.set()

    def _measure(self) -> None:
        self.stats.busy_slots = len(self._scheduler.running)
        self.stats.waiting = len(self._scheduler.waiting)
        self.stats.held_tokens = self._scheduler.memory.n_held

    def _publish(self) -> None:
        self._measure()
        if not self._is_abandoned and (outbox := self._answers.collect()):
            self._courier.send(outbox)
