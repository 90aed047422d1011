"""The loop of an engine process whose model pools: takes inputs, computes a step of several, and reports it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from worker_gguf.engine.pooling import PoolingBatch, PoolingResult, PoolingRunner, PoolingScheduler, Result
from worker_gguf.engine.request import PoolingRequest
from worker_gguf.errors import EngineFailed, WorkerError
from worker_gguf.link.channel import Channel
from worker_gguf.link.errors import report_of
from worker_gguf.link.messages import Command, Ending, Finish, Pool, Step, Stop

__all__ = ["PoolingLoop"]

logger = logging.getLogger(__name__)


class PoolingLoop:
    """Pools inputs until it is told to stop. For one thread."""

    def __init__(
        self, runner: PoolingRunner, channel: Channel[Command], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._runner = runner
        self._channel = channel
        self._clock = clock
        self._scheduler = PoolingScheduler(runner.limits)
        self._numbers: dict[str, int] = {}
        self._ids: dict[int, str] = {}
        self._refused: list[Ending] = []

    def run(self) -> None:
        """Return after Stop. Raises ChannelClosed if the worker process ends."""
        while self._take_commands():
            try:
                self._step()
            except Exception:
                # This is a bug, not the fault of an input. Every input ends with an error, and the next one starts
                # with empty slots.
                logger.exception("engine step failed")
                self._report(self._scheduler.reset(EngineFailed("The engine failed; see the log.")))

    # --- commands -------------------------------------------------------------------------------------------------

    def _take_commands(self) -> bool:
        """Apply the commands that have arrived; wait for one if there is nothing else to do. False ends the loop."""
        while True:
            command = self._channel.receive(block=self._scheduler.is_idle)
            if command is None:
                return True
            if isinstance(command, Stop):
                return False
            has_ended = self._apply(command)
            if self._scheduler.is_idle and (self._refused or has_ended):
                self._report([])  # before this waits for the next command

    def _apply(self, command: Command) -> bool:
        """Apply a command. Returns whether it has ended an input."""
        if isinstance(command, Finish):
            if (request_id := self._ids.pop(command.number, None)) is None:
                return False
            del self._numbers[request_id]
            self._scheduler.finish(request_id)
            return True
        assert isinstance(command, Pool), f"{type(command).__name__} came for a model that pools"
        start_by_s = command.start_by_s
        for number, request in zip(command.numbers, command.requests, strict=True):
            self._add(number, request, command.group, start_by_s)
            start_by_s = None
        return False

    def _add(self, number: int, request: PoolingRequest, group: int, start_by_s: float | None) -> None:
        try:
            self._scheduler.add(request, group, start_by_s)
        except AssertionError:  # a bug in the caller, but its input still gets an ending
            logger.exception("the scheduler refused an input that the service should have refused")
            self._refused.append(_failed(number, EngineFailed("The engine cannot take this input; see the log.")))
        else:
            self._numbers[request.id] = number
            self._ids[number] = request.id

    # --- a step ---------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        if expired := self._scheduler.expire(self._clock()):
            self._report(expired)  # at once, because the computation may take long
        started = time.perf_counter()
        batch = self._scheduler.schedule()
        schedule_seconds = time.perf_counter() - started
        if batch is None:
            return
        begun_s = self._clock()
        begun = [(self._numbers[request_id], 0) for request_id in self._scheduler.begun(batch)]
        result = self._runner.run(batch)
        self._report(self._scheduler.commit(batch, result), batch, result, begun, begun_s, schedule_seconds)

    def _report(
        self,
        results: Iterable[Result],
        batch: PoolingBatch | None = None,
        computed: PoolingResult | None = None,
        begun: list[tuple[int, int]] | None = None,
        begun_s: float = 0.0,
        schedule_seconds: float = 0.0,
    ) -> None:
        pooled: list[tuple[int, bytes]] = []
        endings, self._refused = self._refused, []
        for result in results:
            number = self._numbers.pop(result.request_id)
            del self._ids[number]
            if result.values is not None:
                pooled.append((number, result.values))
            if result.error is not None:
                endings.append(_failed(number, result.error))
        n_open, n_slots = self._scheduler.n_open, self._runner.limits.n_slots
        self._channel.send(
            Step(
                time_s=self._clock(),
                admitted_s=begun_s,
                numbers=[],
                tokens=[],
                logprobs=[],
                admitted=begun or [],
                endings=endings,
                busy_slots=min(n_open, n_slots),
                waiting=max(0, n_open - n_slots),
                held_tokens=self._scheduler.n_held,
                n_batch_tokens=0 if batch is None else batch.n_tokens,
                schedule_seconds=schedule_seconds,
                decode_seconds=0.0 if computed is None else computed.seconds,
                sample_seconds=0.0,
                pooled=pooled,
            )
        )


def _failed(number: int, error: WorkerError) -> Ending:
    return Ending(number=number, reason="error", n_generated=0, n_cached=0, error=report_of(error))
