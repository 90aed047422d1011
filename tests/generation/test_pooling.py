"""Tests of an engine whose model pools: a real thread, a fake runner, asyncio readers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.fake_pooler import FakePooler, pooling_limits, pooling_request, values_of
from tests.threaded_link import ThreadedLink, engine_of, read
from tests.waiting import wait_until
from worker_gguf.engine.runner import Limits
from worker_gguf.errors import EngineCrashed, EngineFailed, QueueFull
from worker_gguf.generation.engine import Engine, Link
from worker_gguf.generation.events import Event, Finished, Pooled, Usage
from worker_gguf.generation.stream import EventStream

Start = Callable[..., tuple[Engine, FakePooler]]


@pytest.fixture
def start() -> Iterator[Start]:
    engines: list[Engine] = []

    def make(limits: Limits | None = None, **options: object) -> tuple[Engine, FakePooler]:
        fake = FakePooler(limits or pooling_limits())
        engine = engine_of(fake, **options)  # type: ignore[arg-type]
        engines.append(engine)
        engine.start()
        return engine, fake

    yield make
    for engine in engines:
        if engine._thread.is_alive():
            engine.stop()


def test_each_input_gets_its_numbers_and_then_its_ending(start: Start) -> None:
    engine, _ = start()

    async def run() -> dict[int, list[Event]]:
        return await read(engine.submit(pooling_request("a", [1, 2]), pooling_request("b", [3])))

    assert asyncio.run(run()) == {
        0: [Pooled(values_of([1, 2])), Finished("stop", Usage(2, 0, 0))],
        1: [Pooled(values_of([3])), Finished("stop", Usage(1, 0, 0))],
    }
    assert (engine.stats.prompt_tokens, engine.stats.completion_tokens, engine.stats.steps) == (3, 0, 1)
    assert engine.stats.finished == {"stop": 2}


def test_progress_has_the_times_of_each_input(start: Start) -> None:
    engine, _ = start()

    async def run() -> EventStream:
        stream = engine.submit(pooling_request("a"))
        await read(stream)
        return stream

    (progress,) = asyncio.run(run()).progress
    assert progress.admitted_s is not None
    assert progress.ended_s is not None
    assert progress.submitted_s <= progress.admitted_s <= progress.ended_s
    assert (progress.first_token_s, progress.prompt_tokens) == (None, 3)


def test_a_request_takes_one_place_for_all_its_inputs(start: Start) -> None:
    engine, fake = start(pooling_limits(n_slots=1), max_queue=1)
    fake.gate = threading.Event()

    async def run() -> None:
        streams = [engine.submit(*(pooling_request(f"{name}{n}") for n in range(50))) for name in "ab"]
        with pytest.raises(QueueFull):
            engine.submit(pooling_request("c"))
        assert fake.gate is not None
        fake.gate.set()
        for stream in streams:
            assert len(await read(stream)) == 50
        assert len(await read(engine.submit(pooling_request("c")))) == 1

    asyncio.run(run())


def test_a_request_that_is_cancelled_leaves_its_place(start: Start) -> None:
    engine, fake = start(pooling_limits(n_slots=1), max_queue=0)
    fake.gate = threading.Event()

    async def run() -> None:
        stream = engine.submit(*(pooling_request(f"a{n}") for n in range(5)))
        stream.cancel()
        assert engine.n_open == 0
        other = engine.submit(pooling_request("b"))
        assert fake.gate is not None
        fake.gate.set()
        assert len(await read(other)) == 1

    asyncio.run(run())
    assert engine.stats.finished == {"cancelled": 5, "stop": 1}


def test_an_input_that_fails_is_the_error_of_that_input(start: Start) -> None:
    engine, fake = start(pooling_limits(n_slots=1))

    def fail_once() -> None:
        fake.on_run = lambda: None
        raise RuntimeError("a bug")

    fake.on_run = fail_once

    async def run() -> dict[int, list[Event]]:
        return await read(engine.submit(pooling_request("a")))

    ((ending,),) = asyncio.run(run()).values()
    assert isinstance(ending, Finished)
    assert isinstance(ending.error, EngineFailed)


def test_another_process_takes_the_place_of_one_that_dies(start: Start) -> None:
    fakes: list[FakePooler] = []

    def revive(_: Callable[[], bool]) -> Link:
        fakes.append(FakePooler(pooling_limits()))
        return ThreadedLink(fakes[-1], max_queue=9)

    engine, fake = start(revive=revive)
    fake.gate = threading.Event()

    async def run() -> None:
        dying = engine.submit(pooling_request("a"), pooling_request("b"))
        engine.kill(EngineCrashed("It hangs."))
        fake.gate.set()  # type: ignore[union-attr]
        got = await read(dying)
        assert {type(events[-1].error) for events in got.values() if isinstance(events[-1], Finished)} == {
            EngineCrashed
        }
        wait_until(lambda: engine.is_running)
        assert (await read(engine.submit(pooling_request("c"))))[0][0] == Pooled(values_of([1, 2, 3]))

    asyncio.run(run())
    assert len(fakes) == 1
