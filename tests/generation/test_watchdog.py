"""Tests of the watchdog: the definition of a stall, and an engine whose decode does not return."""

from __future__ import annotations

import asyncio
import threading

from tests.fakes import FakeRunner, limits, request
from tests.threaded_link import engine_of
from worker_gguf.errors import EngineWedged
from worker_gguf.generation.engine import Engine
from worker_gguf.generation.events import Finished
from worker_gguf.generation.watchdog import Stall, Watchdog


def test_a_turn_that_does_not_end_is_a_stall_after_the_floor() -> None:
    stall = Stall(10)
    assert not any(stall.look(1, True, 1) for _ in range(11))
    assert stall.look(1, True, 1)
    assert stall.seconds == 11


def test_an_idle_or_turning_engine_is_not_stalled() -> None:
    stall = Stall(2)
    assert not any(stall.look(5, False, 1) for _ in range(50))
    assert not any(stall.look(turn, True, 1) for turn in range(50))


def test_work_after_an_idle_hour_gets_the_full_time() -> None:
    stall = Stall(3)
    for _ in range(3600):
        stall.look(5, False, 1)
    assert [stall.look(5, True, 1) for _ in range(4)] == [False, False, False, True]


def test_a_slow_machine_gets_twenty_times_its_slowest_step() -> None:
    stall = Stall(3)
    stall.look(1, True, 0)
    stall.look(1, True, 2)
    stall.look(2, True, 0)
    assert stall.allowed_s == 40
    assert not any(stall.look(2, True, 1) for _ in range(40))
    assert stall.look(2, True, 1)


async def test_requests_of_a_wedged_engine_end_with_a_retryable_error() -> None:
    runner = FakeRunner(limits())
    runner.gate = threading.Event()
    engine = engine_of(runner, max_queue=10)
    engine.start()
    stalls: list[float] = []

    def on_wedged(wedged: Engine, seconds: float) -> None:
        stalls.append(seconds)
        wedged.kill(EngineWedged.after(seconds))

    streams = [engine.submit(request(str(i))) for i in range(5)]  # two in slots, three in the socket behind the step
    watchdog = Watchdog(lambda: (engine,), 0.2, on_wedged).start()
    endings = []
    for stream in streams:
        async for items in stream:
            endings += [event for events in items.values() for event in events]
    errors = [ending.error for ending in endings if isinstance(ending, Finished)]
    assert len(errors) == len(endings) == 5
    assert all(isinstance(error, EngineWedged) and error.retryable and error.status == 503 for error in errors)
    assert stalls[0] >= 0.2
    await engine.idle()
    runner.gate.set()
    engine.stop()
    watchdog.stop()


def test_an_engine_that_works_is_left_alone() -> None:
    runner = FakeRunner(limits())
    engine = engine_of(runner, max_queue=10)
    engine.start()
    stalls: list[float] = []
    watchdog = Watchdog(lambda: (engine,), 0.5, lambda _, seconds: stalls.append(seconds))

    async def run() -> int:
        n_looks = 0
        for i in range(20):
            async for _ in engine.submit(request(str(i))):
                watchdog._look(0.4)  # at least one turn after the last look
                n_looks += 1
        return n_looks

    n_looks = asyncio.run(run())
    engine.stop()
    assert n_looks >= 20
    assert stalls == []
