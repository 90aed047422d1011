"""The loop of an engine process: takes commands, schedules a step, runs it, and reports what it did."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Set
from typing import Any

from msgspec.structs import replace

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.batch import Batch, Close, Drop, Logprob, Open, StepResult
from worker_gguf.engine.drafter import Drafter
from worker_gguf.engine.image_runs import ImageWork
from worker_gguf.engine.runner import Runner
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.engine.sequence import Sequence
from worker_gguf.engine.slots import common_prefix
from worker_gguf.engine.speculation import Drafted
from worker_gguf.engine.updates import Ended, Scored, Token, Update
from worker_gguf.engine_process.preparation import Preparation
from worker_gguf.errors import EngineFailed, WorkerError
from worker_gguf.link.channel import Channel
from worker_gguf.link.errors import report_of
from worker_gguf.link.messages import Add, Command, Ending, Finish, Step, Stop

__all__ = ["Loop"]

# A report is not held if the steps take so long: a user would notice, and little is gained.
_LONG_DECODE_S = 0.1
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
        """With `holds_reports`, further tokens of answers are reported during the drawing of the next step.

        Where llama.cpp computes on all processors, the worker process would take one of them from the computation. The
        drawing needs only one.
        """
        self.runner = runner
        self._holds_reports = holds_reports
        self._held: Step | None = None
        self._unfinished: Batch | None = None
        runner.on_decoded = self._send_held
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
        self._begin_report()

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
                self._seen.append((command.number, len(request.prompt)))

    @property
    def _n_preparing(self) -> int:
        return sum(map(len, self._preparations))

    def _refuse(self, number: int, request_id: str, error: WorkerError) -> None:
        self.runner.forget(request_id)
        ending = Ending(number=number, reason="error", n_generated=0, n_cached=0, error=report_of(error))
        self._endings.append(ending)

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
        started = time.perf_counter()
        batch = self._scheduler.schedule()
        drafted = self._scheduler.take_drafted()
        self._draft_seconds = drafted.seconds
        self._schedule_seconds = time.perf_counter() - started - drafted.seconds
        if batch is None:
            return
        self._unfinished = batch
        self._admitted_s = self._clock()
        self._is_urgent = bool(self._endings)  # of requests that ended before this step
        self._note_admitted(batch)
        result = self.runner.run(batch)
        self._note_result(batch, result, drafted)
        self._note(self._scheduler.commit(batch, result))
        self._unfinished = None

    def _free(self) -> None:
        """Free what the batch of a failed step should have freed."""
        if self._unfinished is not None:
            freed = [operation for operation in self._unfinished.operations if isinstance(operation, Close | Drop)]
            self._unfinished = None
            self.runner.run(Batch(tuple(freed), ()))

    # --- the report -----------------------------------------------------------------------------------------------

    def _begin_report(self) -> None:
        self._tokens: list[int] = []
        self._of: list[int] = []
        self._logprobs: list[Logprob | None] = []
        self._has_logprobs = False
        self._scored: list[tuple[int, tuple[Logprob, ...]]] = []
        self._seen: list[tuple[int, int]] = []
        self._admitted: list[tuple[int, Sequence]] = []
        self._admitted_s = 0.0
        self._endings: list[Ending] = []
        self._is_urgent = True  # unless it has nothing but further tokens of answers
        self._begun_or_ended: set[int] = set()
        self._is_long = False
        self._n_batch_tokens = self._n_guessed = self._n_right = 0
        self._n_drafted = self._n_drafted_right = self._n_constrained = 0
        self._mask_seconds = self._switch_seconds = 0.0
        self._has_switched = False
        self._schedule_seconds = self._draft_seconds = self._decode_seconds = self._sample_seconds = 0.0

    def _note_admitted(self, batch: Batch) -> None:
        for operation in batch.operations:
            if isinstance(operation, Open) and (number := self._numbers.get(operation.request.id)) is not None:
                sequence = self._scheduler.memory.slots[operation.slot].sequence
                if sequence is not None and not sequence.n_generated:
                    self._admitted.append((number, sequence))
                    self._is_urgent = True

    def _note_result(self, batch: Batch, result: StepResult, drafted: Drafted) -> None:
        self._n_batch_tokens = batch.n_tokens
        self._is_long = result.decode_seconds > _LONG_DECODE_S
        if guessing := [chunk for chunk in batch.chunks if chunk.n_guesses]:
            drawn = {sampled.slot: list(sampled.tokens) for sampled in result.sampled}
            right = {chunk.slot: common_prefix(chunk.guesses, drawn.get(chunk.slot, [])) for chunk in guessing}
            self._n_guessed = sum(chunk.n_guesses for chunk in guessing)
            self._n_right = sum(right.values())
            self._n_drafted = sum(chunk.n_guesses for chunk in guessing if chunk.slot in drafted.slots)
            self._n_drafted_right = sum(n for slot, n in right.items() if slot in drafted.slots)
        self._decode_seconds, self._sample_seconds = result.decode_seconds, result.sample_seconds
        self._n_constrained, self._mask_seconds = result.n_constrained, result.mask_seconds
        if batch.chunks:
            self._has_switched = batch.adapters != self._adapters
            self._adapters, self._switch_seconds = batch.adapters, result.switch_seconds

    def _note(self, updates: list[Update]) -> None:
        for update in updates:
            if isinstance(update, Scored):
                self._scored.append((self._numbers[update.sequence.id], update.logprobs))
                self._is_urgent = True
                continue
            if isinstance(update, Token):
                self._of.append(self._numbers[update.sequence.id])
                self._tokens.append(update.token)
                self._logprobs.append(update.logprob)
                self._has_logprobs = self._has_logprobs or update.logprob is not None
                if update.sequence.n_generated == 1:
                    self._begun_or_ended.add(self._of[-1])
                    self._is_urgent = True
            elif (number := self._forget(update.sequence.id)) is not None:
                self._endings.append(_ending(number, update))
                self._begun_or_ended.add(number)
                self._is_urgent = True

    def _send_report(self) -> None:
        """Send what has happened since the last report, or hold its further tokens until the next step is computed.

        All further tokens are held, next to a first token, too: one that came early would make the next one late.
        """
        self._send_held()
        # Without a further token, the next step may never come.
        can_wait = self._holds_reports and not self._is_long and not self._begun_or_ended.issuperset(self._of)
        report, urgent, is_urgent = self._report(), self._begun_or_ended, self._is_urgent
        self._begin_report()
        if not can_wait:
            self._channel.send(report)
        elif is_urgent:
            now, self._held = _divided(report, urgent)
            self._channel.send(now)
        else:
            self._held = report

    def _send_held(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._channel.send(held)

    def _report(self) -> Step:
        cache = self._scheduler.memory.cache
        before, self._image_work = self._image_work, self.runner.image_work
        return Step(
            time_s=self._clock(),
            admitted_s=self._admitted_s,
            numbers=self._of,
            tokens=self._tokens,
            logprobs=self._logprobs if self._has_logprobs else [],
            # Not earlier: the step may have lost what it should have reused.
            admitted=[(number, sequence.n_cached or 0) for number, sequence in self._admitted],
            endings=self._endings,
            busy_slots=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting) + self._n_preparing,
            held_tokens=self._scheduler.memory.n_held,
            n_batch_tokens=self._n_batch_tokens,
            schedule_seconds=self._schedule_seconds,
            decode_seconds=self._decode_seconds,
            sample_seconds=self._sample_seconds,
            guessed=self._n_guessed,
            guessed_right=self._n_right,
            drafted=self._n_drafted,
            drafted_right=self._n_drafted_right,
            draft_seconds=self._draft_seconds,
            constrained=self._n_constrained,
            scored=self._scored,
            seen=self._seen,
            images_encoded=self._image_work.encoded - before.encoded,
            images_reused=self._image_work.reused - before.reused,
            image_seconds=self._image_work.seconds - before.seconds,
            mask_seconds=self._mask_seconds,
            switched=self._has_switched,
            switch_seconds=self._switch_seconds,
            saved_bytes=0 if cache is None else cache.n_bytes,
        )


def _divided(report: Step, urgent: Set[int]) -> tuple[Step, Step]:
    """Divide a report into what cannot wait, with the tokens of some requests, and all other tokens and numbers."""
    first = [at for at, number in enumerate(report.numbers) if number in urgent]
    others = [at for at, number in enumerate(report.numbers) if number not in urgent]
    now = Step(
        time_s=report.time_s,
        admitted_s=report.admitted_s,
        **_tokens_at(report, first),
        admitted=report.admitted,
        endings=report.endings,
        scored=report.scored,
        seen=report.seen,
        busy_slots=report.busy_slots,
        waiting=report.waiting,
        held_tokens=report.held_tokens,
        saved_bytes=report.saved_bytes,
        n_batch_tokens=0,
        schedule_seconds=0.0,
        decode_seconds=0.0,
        sample_seconds=0.0,
    )
    return now, replace(report, **_tokens_at(report, others), admitted=[], endings=[], scored=[], seen=[])


def _tokens_at(report: Step, places: list[int]) -> dict[str, Any]:
    return {
        "numbers": [report.numbers[at] for at in places],
        "tokens": [report.tokens[at] for at in places],
        "logprobs": [report.logprobs[at] for at in places] if report.logprobs else [],
    }


def _ending(number: int, ended: Ended) -> Ending:
    return Ending(
        number=number,
        reason=ended.reason,
        n_generated=ended.sequence.n_generated,
        n_cached=ended.sequence.n_cached or 0,
        error=None if ended.error is None else report_of(ended.error),
        end_token=ended.end_token,
    )
