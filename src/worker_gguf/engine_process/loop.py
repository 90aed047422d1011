"""The loop of an engine process: takes commands, schedules a step, runs it, and reports what it did."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.batch import Batch, Close, Drop, Open
from worker_gguf.engine.drafter import Drafter
from worker_gguf.engine.image_runs import ImageWork
from worker_gguf.engine.runner import Runner
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.engine.updates import Ended, Scored, Token, Update
from worker_gguf.engine_process.preparation import Preparation
from worker_gguf.engine_process.reports import Reports, State, Turn
from worker_gguf.errors import EngineFailed, WorkerError
from worker_gguf.link.channel import Channel
from worker_gguf.link.errors import report_of
from worker_gguf.link.messages import Add, Command, Ending, Finish, Stop

__all__ = ["Loop"]

# How often the deadlines of requests in preparation are looked at while nothing else happens.
_LOOK_AT_DEADLINES_S = 0.1

logger = logging.getLogger(__name__)


class Loop:
    """Runs requests in parallel until it is told to stop. For one thread."""

    def __init__(
        self,
        runner: Runner,
        channel: Channel[Command],
        *,
        eog: frozenset[int],
        max_queue: int,
        prefill_chunk: int | None = None,
        cache_bytes: int = 0,
        holds_reports: bool = False,
        drafter: Drafter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """With `holds_reports`, further tokens of answers are reported during the drawing of the next step."""
        self.runner = runner
        self._reports = Reports(channel.send, hold=holds_reports)
        runner.on_decoded = self._reports.send_held
        self._turn = Turn()
        self._unfinished: Batch | None = None
        self._channel = channel
        self._clock = clock
        self._scheduler = Scheduler(
            runner.limits,
            eog=eog,
            max_queue=max_queue,
            prefill_chunk=prefill_chunk,
            cache_bytes=cache_bytes,
            drafter=drafter,
        )
        channel.allow_wake()
        self._grammars = Preparation(runner.prepare, runner.forget, channel.wake)
        # In a thread of its own: an image takes too long for a request that waits for its grammar.
        self._images = Preparation(runner.prepare, runner.forget, channel.wake, "its images were encoded")
        self._preparations = (self._grammars, self._images)
        self._numbers: dict[str, int] = {}
        self._ids: dict[int, str] = {}
        self._adapters: AdapterSet = ()
        self._image_work = ImageWork()

    def run(self) -> None:
        """Return after Stop. Raises ChannelClosed if the worker process ends."""
        while self._take_commands():
            try:
                self._step()
            except Exception:
                # This is a bug, not the fault of a request. Every request ends with an error, and the next one starts
                # with an empty memory.
                logger.exception("engine step failed")
                self._note(self._scheduler.reset(EngineFailed("The engine failed; see the log.")))
                self._free()
            self._send_report()

    # --- commands -------------------------------------------------------------------------------------------------

    def _take_commands(self) -> bool:
        """Apply the commands that have arrived; wait for one if there is nothing else to do. False ends the loop."""
        while True:
            most_s = _LOOK_AT_DEADLINES_S if self._n_preparing else None
            command = self._channel.receive(block=self._scheduler.is_idle, most_s=most_s)
            for preparation in self._preparations:
                for prepared, error in [*preparation.take(), *preparation.late(self._clock())]:
                    self._add(prepared, error)
            if command is None:
                if self._scheduler.is_idle:  # another thread woke this one, or it is time to look again
                    self._send_report()
                    continue
                return True
            if isinstance(command, Stop):
                return False
            self._apply(command)
            if self._scheduler.is_idle:
                self._send_report()  # a refusal, before this waits for the next command

    def _apply(self, command: Command) -> None:
        if isinstance(command, Finish):
            if (request_id := self._ids.get(command.number)) is not None:
                self._forget(request_id)
                self._scheduler.finish(request_id, "cancelled")
            else:
                for preparation in self._preparations:
                    preparation.forget(command.number)
            return
        assert isinstance(command, Add), f"{type(command).__name__} came after the context was open"
        if command.image_sizes:
            self._images.begin(command, self._channel.take_fd())
        elif command.request.is_guided:
            self._grammars.begin(command)
        else:
            self._add(command)

    def _add(self, command: Add, error: WorkerError | None = None) -> None:
        """Add a request, or refuse it with the error of its preparation."""
        request = command.request
        try:
            if error is not None:
                raise error
            self._scheduler.add(request, command.start_by_s)
        except WorkerError as error:
            self._refuse(command.number, request.id, error)
        except AssertionError:  # a bug in the caller, but its request still gets an ending
            logger.exception("the scheduler refused a request that the service should have refused")
            self._refuse(command.number, request.id, EngineFailed("The engine cannot take this request; see the log."))
        else:
            self._numbers[request.id] = command.number
            self._ids[command.number] = request.id
            if request.runs:
                self._turn.seen.append((command.number, len(request.prompt)))

    @property
    def _n_preparing(self) -> int:
        return sum(map(len, self._preparations))

    def _refuse(self, number: int, request_id: str, error: WorkerError) -> None:
        self.runner.forget(request_id)
        ending = Ending(number=number, reason="error", n_generated=0, n_cached=0, error=report_of(error))
        self._turn.endings.append(ending)

    def _forget(self, request_id: str) -> int | None:
        number = self._numbers.pop(request_id, None)
        if number is not None:
            del self._ids[number]
        return number

    # --- a step ---------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        if expired := self._scheduler.expire(self._clock()):
            self._note(expired)
            self._send_report()  # at once, because the decode may take long
        with self.runner.computing():
            self._compute()

    def _compute(self) -> None:
        started = time.perf_counter()
        batch = self._scheduler.schedule()
        drafted = self._scheduler.take_drafted()
        self._turn.draft_seconds = drafted.seconds
        self._turn.schedule_seconds = time.perf_counter() - started - drafted.seconds
        if batch is None:
            return
        self._unfinished = batch
        self._turn.admitted_s = self._clock()
        self._note_admitted(batch)
        result = self.runner.run(batch)
        self._turn.note_result(batch, result, drafted)
        if batch.chunks:
            self._turn.switched, self._adapters = batch.adapters != self._adapters, batch.adapters
        self._note(self._scheduler.commit(batch, result))
        self._unfinished = None

    def _free(self) -> None:
        """Free what the batch of a failed step should have freed."""
        if self._unfinished is not None:
            freed = [operation for operation in self._unfinished.operations if isinstance(operation, Close | Drop)]
            self._unfinished = None
            self.runner.run(Batch(tuple(freed), ()))

    # --- the report -----------------------------------------------------------------------------------------------

    def _note_admitted(self, batch: Batch) -> None:
        for operation in batch.operations:
            if isinstance(operation, Open) and (number := self._numbers.get(operation.request.id)) is not None:
                sequence = self._scheduler.memory.slots[operation.slot].sequence
                if sequence is not None and not sequence.n_generated:
                    self._turn.admitted.append((number, sequence))

    def _note(self, updates: list[Update]) -> None:
        for update in updates:
            match update:
                case Token(sequence):
                    self._turn.note_token(self._numbers[sequence.id], update)
                case Scored(sequence):
                    self._turn.note_scored(self._numbers[sequence.id], update)
                case Ended(sequence):
                    if (number := self._forget(sequence.id)) is not None:
                        self._turn.note_ended(number, update)

    def _send_report(self) -> None:
        turn, self._turn = self._turn, Turn()
        cache, before = self._scheduler.memory.cache, self._image_work
        self._image_work = work = self.runner.image_work
        state = State(
            time_s=self._clock(),
            busy_slots=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting) + self._n_preparing,
            held_tokens=self._scheduler.memory.n_held,
            saved_bytes=0 if cache is None else cache.n_bytes,
        )
        turn.images = ImageWork(
            work.encoded - before.encoded, work.reused - before.reused, work.seconds - before.seconds
        )
        self._reports.send(turn, state)
