"""Tests of the engine: a real thread, a fake runner, asyncio readers."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from tests.fakes import FakeRunner, foretold, limits, request, successor
from tests.threaded_link import ThreadedLink, engine_of, read
from tests.waiting import MOST_S, wait_until
from worker_gguf.engine.batch import Batch, StepResult
from worker_gguf.engine.runner import Limits
from worker_gguf.errors import (
    DeadlineExceeded,
    EngineCrashed,
    EngineFailed,
    InvalidRequest,
    NotReady,
    QueueFull,
    WorkerError,
)
from worker_gguf.generation.engine import Engine, Link
from worker_gguf.generation.events import Delta, Event, Finished
from worker_gguf.generation.stream import EventStream
from worker_gguf.link.process import EngineDied

Start = Callable[..., tuple[Engine, FakeRunner]]


def text(tokens: Sequence[int]) -> str:
    return "".join(f"{token} " for token in tokens)


@pytest.fixture
def start() -> Iterator[Start]:
    engines: list[Engine] = []

    def make(given: Limits | None = None, *, max_queue: int = 100, **runner: object) -> tuple[Engine, FakeRunner]:
        fake = FakeRunner(given or limits(), **runner)  # type: ignore[arg-type]
        engine = engine_of(fake, max_queue=max_queue)
        engines.append(engine)
        engine.start()
        return engine, fake

    yield make
    for engine in engines:
        if engine._thread.is_alive():
            engine.stop()


def answer(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def ending(events: list[Event]) -> Finished:
    assert [isinstance(event, Finished) for event in events] == [False] * (len(events) - 1) + [True]
    last = events[-1]
    assert isinstance(last, Finished)
    return last


def test_an_answer_streams_and_ends_with_its_usage(start: Start) -> None:
    engine, _ = start()
    events = asyncio.run(_run(engine, request("a", [1, 2, 3], max_tokens=5)))[0]
    assert answer(events) == text(foretold([1, 2, 3], 5))
    usage = ending(events).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (3, 5, 0)


def test_progress_has_the_times_of_each_request_and_its_counts(start: Start) -> None:
    engine, _ = start(limits(n_slots=1))

    async def run() -> EventStream:
        stream = engine.submit(request("a", [1, 2, 3], max_tokens=5), request("b", [1, 2, 3], max_tokens=2))
        await read(stream)
        return stream

    first, second = asyncio.run(run()).progress
    for progress in (first, second):
        assert progress.admitted_s is not None
        assert progress.first_token_s is not None
        assert progress.ended_s is not None
        assert progress.submitted_s <= progress.admitted_s <= progress.first_token_s <= progress.ended_s
    assert second.admitted_s is not None
    assert first.ended_s is not None
    assert second.admitted_s >= first.ended_s  # one slot: the second waited for it
    assert (first.prompt_tokens, first.completion_tokens) == (3, 5)
    assert (second.cached_tokens, second.completion_tokens) == (2, 2)


async def _run(engine: Engine, *requests: object) -> dict[int, list[Event]]:
    return await read(engine.submit(*requests))  # type: ignore[arg-type]


def test_the_stream_of_a_group_keeps_its_requests_apart(start: Start) -> None:
    engine, _ = start()
    got = asyncio.run(_run(engine, request("a", [1]), request("b", [2, 2]), request("c", [3, 3])))
    for index, prompt in enumerate(([1], [2, 2], [3, 3])):
        assert answer(got[index]) == text(foretold(prompt, 4))


def test_a_stop_text_ends_with_stop_even_on_the_last_token(start: Start) -> None:
    engine, _ = start()
    expected = foretold([1, 2, 3], 4)
    events = asyncio.run(_run(engine, request("a", [1, 2, 3], max_tokens=4, stop=(f"{expected[3]} ",))))[0]
    assert answer(events) == text(expected[:3])
    assert ending(events).reason == "stop"
    assert ending(events).stop == f"{expected[3]} "


def test_a_full_worker_refuses_a_whole_group(start: Start) -> None:
    engine, fake = start(max_queue=1)
    fake.gate = threading.Event()

    async def scenario() -> None:
        first = engine.submit(request("a"), request("b"), request("c"))
        with pytest.raises(QueueFull):
            engine.submit(request("d"))
        assert fake.gate is not None
        fake.gate.set()
        got = await read(first)
        assert {ending(events).reason for events in got.values()} == {"length"}

    asyncio.run(scenario())


def test_a_group_that_never_fits_is_refused_for_good(start: Start) -> None:
    engine, _ = start(limits(n_slots=2), max_queue=1)

    async def scenario() -> None:
        with pytest.raises(InvalidRequest, match="4 answers at once"):
            engine.submit(*(request(name) for name in "abcd"))

    asyncio.run(scenario())


def test_cancel_ends_as_cancelled_and_frees_the_slot(start: Start) -> None:
    engine, fake = start(limits(n_slots=1, n_ctx=10_000, n_cells=10_000))

    async def scenario() -> None:
        stream = engine.submit(request("a", max_tokens=9_000))
        await anext(stream)
        stream.cancel()
        got = await read(engine.submit(request("b", [4, 4])))
        assert answer(got[0]) == text(foretold([4, 4], 4))

    asyncio.run(scenario())
    asyncio.run(asyncio.wait_for(engine.idle(), MOST_S))
    assert engine.stats.finished["cancelled"] == 1
    assert fake.open.keys() <= {"b"}


def test_a_deadline_ends_with_its_error() -> None:
    now = 0.0
    fake = FakeRunner(limits(n_ctx=1000, n_cells=1000))

    def draw(history: Sequence[int]) -> int:
        nonlocal now
        now += 1.0
        return successor(history)

    fake.draw = draw
    engine = engine_of(fake, max_queue=1, clock=lambda: now)
    engine.start()
    try:
        events = asyncio.run(_run(engine, request("a", max_tokens=900, deadline_s=5.0)))[0]
    finally:
        engine.stop()
    assert isinstance(ending(events).error, DeadlineExceeded)


def test_a_request_that_waits_too_long_is_refused_and_its_group_with_it() -> None:
    now = 0.0
    fake = FakeRunner(limits(n_slots=1, n_ctx=1000, n_cells=1000))

    def draw(history: Sequence[int]) -> int:
        nonlocal now
        now += 1.0
        return successor(history)

    fake.draw = draw
    engine = engine_of(fake, max_queue=9, queue_timeout_s=5.0, clock=lambda: now)
    engine.start()

    async def scenario() -> None:
        fake.gate = threading.Event()
        long = engine.submit(request("a", max_tokens=50), request("b", max_tokens=2))
        late = engine.submit(request("c"))
        fake.gate.set()
        refused = ending((await read(late))[0]).error
        assert isinstance(refused, QueueFull)
        assert (refused.retry_after_s or 0) >= 5  # nothing has ended since it came
        begun = await read(long)
        assert [ending(begun[index]).reason for index in (0, 1)] == ["length", "length"]

    try:
        asyncio.run(scenario())
    finally:
        engine.stop()


class Guessing(FakeRunner):
    """Draws four tokens for a sequence in each step."""

    def run(self, batch: Batch) -> StepResult:
        result = super().run(batch)
        several = (replace(sampled, tokens=tuple(range(50, 54))) for sampled in result.sampled)
        return replace(result, sampled=tuple(several))


def test_tokens_after_a_stop_text_in_the_same_step_are_not_counted() -> None:
    engine = engine_of(Guessing(limits()), max_queue=5)
    engine.start()
    try:
        events = asyncio.run(_run(engine, request("a", stop=("51 ",))))[0]
    finally:
        engine.stop()
    last = ending(events)
    assert (answer(events), last.reason, last.stop) == ("50 ", "stop", "51 ")
    assert last.usage.completion_tokens == engine.stats.completion_tokens == 2


class Broken(FakeRunner):
    """Raises on the first chunks it sees."""

    def run(self, batch: Batch) -> StepResult:
        if batch.chunks and not self.batches:
            self.batches.append(batch)
            raise RuntimeError("segfault, nearly")
        return super().run(batch)


def test_a_runner_that_raises_ends_the_request_and_serves_the_next(caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_of(Broken(limits()), max_queue=5)
    engine.start()
    try:
        events = asyncio.run(_run(engine, request("a")))[0]
        assert isinstance(ending(events).error, EngineFailed)
        assert answer(asyncio.run(_run(engine, request("b", [8])))[0]) == text(foretold([8], 4))
    finally:
        engine.stop()
    assert "engine step failed" in caplog.text


def test_a_request_that_the_service_should_have_refused_still_gets_an_ending(start: Start) -> None:
    engine, _ = start(limits(n_ctx=8, n_cells=32))
    for prompt in ([], [1] * 8):
        events = asyncio.run(_run(engine, request("a", prompt)))[0]
        assert isinstance(ending(events).error, EngineFailed)
    assert answer(asyncio.run(_run(engine, request("b", [8], max_tokens=2)))[0]) == text(foretold([8], 2))


def test_stop_ends_running_requests_and_accepts_no_new_ones(start: Start) -> None:
    engine, fake = start(limits(n_ctx=100_000, n_cells=100_000))

    async def scenario() -> None:
        stream = engine.submit(request("a", max_tokens=90_000))
        await anext(stream)
        await asyncio.to_thread(engine.stop)
        got = await read(stream)
        assert ending(got[0]).reason == "cancelled"
        with pytest.raises(NotReady):
            engine.submit(request("b"))

    asyncio.run(scenario())
    assert fake.is_closed


def test_200_requests_with_a_third_cancelled_each_end_once_with_their_own_tokens(start: Start) -> None:
    engine, _ = start(limits(n_slots=4, n_ctx=64, n_cells=160, n_batch=24), max_queue=300)
    rng = random.Random(7)

    async def one(i: int) -> None:
        prompt = [1 + i % 5, 2, 3, i % 11 + 1]
        stream = engine.submit(request(f"r{i}", prompt, max_tokens=30))
        if i % 3 == 0:
            got = ""
            for _ in range(rng.randrange(1, 6)):
                items = await anext(stream, None)
                got += answer((items or {}).get(0, []))
            stream.cancel()
            assert text(foretold(prompt, 30)).startswith(got)
        else:
            events = (await read(stream))[0]
            assert answer(events) == text(foretold(prompt, 30))
            assert ending(events).reason == "length"

    async def scenario() -> None:
        await asyncio.gather(*(one(i) for i in range(200)))

    asyncio.run(scenario())
    asyncio.run(asyncio.wait_for(engine.idle(), MOST_S))
    assert sum(engine.stats.finished.values()) == 200
    assert engine.stats.busy_slots == 0
    assert engine.stats.waiting == 0


class Reviving:
    """An engine whose process can be killed; `processes` are the runners of all its processes."""

    def __init__(self, n_reloads: int = 9, **options: Any) -> None:
        self.runners = [FakeRunner(limits(n_ctx=1000, n_cells=2000))]
        self.may_reload = threading.Event()
        self.may_reload.set()
        self._n_reloads = n_reloads
        self.engine = engine_of(self.runners[0], revive=self._revive, **options)
        self.engine.start()

    def kill(self) -> None:
        self.engine._link.kill("It was killed.")

    def _revive(self, go_on: Callable[[], bool]) -> Link:
        while not self.may_reload.wait(0.01):
            if not go_on():
                raise EngineDied("It is not wanted any more.")
        if len(self.runners) > self._n_reloads:
            raise EngineDied("It cannot be loaded again.")
        self.runners.append(FakeRunner(limits(n_ctx=1000, n_cells=2000)))
        return ThreadedLink(self.runners[-1], max_queue=100)


@pytest.fixture
def reviving() -> Iterator[Callable[..., Reviving]]:
    made: list[Reviving] = []

    def make(**options: object) -> Reviving:
        made.append(Reviving(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.engine.stop()


async def test_requests_of_a_dead_process_end_once_with_a_retryable_error(reviving: Callable[..., Reviving]) -> None:
    each = reviving()
    streams = [each.engine.submit(request(str(i), max_tokens=900)) for i in range(4)]
    await anext(streams[0])
    each.kill()
    for stream in streams:
        error = ending((await read(stream))[0]).error
        assert isinstance(error, EngineCrashed)
        assert error.retryable
        assert "It was killed." in error.message
    await asyncio.wait_for(each.engine.idle(), MOST_S)
    assert (each.engine.n_deaths, each.engine.stats.finished["error"]) == (1, 4)


async def test_a_request_that_comes_while_the_model_is_reloaded_waits_and_is_answered(
    reviving: Callable[..., Reviving],
) -> None:
    each = reviving()
    each.may_reload.clear()
    each.kill()
    await asyncio.to_thread(wait_until, lambda: each.engine.state == "reloading")
    stream, left = each.engine.submit(request("a", [1, 2])), each.engine.submit(request("b"))
    left.cancel()
    each.may_reload.set()
    assert answer((await read(stream))[0]) == text(foretold([1, 2], 4))
    assert each.engine.state == "running"
    assert each.runners[1].opened == ["a"]


class Clock:
    """A clock that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_an_engine_whose_processes_do_not_last_is_given_up(reviving: Callable[..., Reviving]) -> None:
    clock = Clock()
    each = reviving(n_reloads=1, clock=clock)
    given_up: list[WorkerError] = []
    each.engine.watch(given_up.append)
    each.kill()
    await asyncio.to_thread(wait_until, partial(has_reloaded, each, 1))
    each.may_reload.clear()
    each.kill()
    await asyncio.to_thread(wait_until, lambda: each.engine.state == "reloading")
    waiting = each.engine.submit(request("a"))
    clock.now_s = 59.9
    each.may_reload.set()
    assert isinstance(ending((await read(waiting))[0]).error, EngineCrashed)
    assert each.engine.state == "given up"
    await asyncio.to_thread(wait_until, lambda: bool(given_up), 10)
    assert ["died 3 times within 60 s" in error.message for error in given_up] == [True]
    assert each.engine.n_deaths == 3
    with pytest.raises(NotReady, match="died 3 times"):
        each.engine.submit(request("b"))


def has_reloaded(each: Reviving, n_deaths: int) -> bool:
    return len(each.runners) == n_deaths + 1 and each.engine.is_running


async def test_deaths_far_apart_are_forgiven(reviving: Callable[..., Reviving]) -> None:
    clock = Clock()
    each = reviving(clock=clock)
    for n_deaths in range(1, 6):
        each.kill()
        await asyncio.to_thread(wait_until, partial(has_reloaded, each, n_deaths))
        clock.now_s += 30.0
    assert answer((await read(each.engine.submit(request("a", [3]))))[0]) == text(foretold([3], 4))


async def test_a_stop_does_not_wait_for_a_reload(reviving: Callable[..., Reviving]) -> None:
    each = reviving()
    each.may_reload.clear()
    each.kill()
    await asyncio.to_thread(wait_until, lambda: each.engine.state == "reloading")
    await asyncio.wait_for(asyncio.to_thread(each.engine.stop), MOST_S)
    assert len(each.runners) == 1
