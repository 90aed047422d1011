"""Tests of the threads in which the long work of requests runs."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from worker_gguf.errors import NotReady
from worker_gguf.service.envelope import encoded, json_bytes
from worker_gguf.service.threads import Threads, is_long

LONG = "a" * 30_000


class Work:
    """Work that ends when the test allows it."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self.has_ended = False

    def __call__(self) -> str:
        self.has_begun.set()
        assert self.may_end.wait(60)
        self.has_ended = True
        return "done"


async def begun(work: Work) -> None:
    assert await asyncio.to_thread(work.has_begun.wait, 60)


async def test_only_long_values_are_worked_on_in_another_thread() -> None:
    threads = Threads()
    here = threading.get_ident()
    assert await threads.run_if_long("a", threading.get_ident) == here
    assert await threads.run_if_long(LONG, threading.get_ident) != here


async def test_a_cancelled_request_goes_on_when_its_work_has_ended() -> None:
    threads, work = Threads(), Work()
    task = asyncio.create_task(threads.run(work))
    await begun(work)
    for _ in range(2):  # a second cancellation changes nothing
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.has_ended


async def test_a_cancelled_request_whose_work_waits_is_over_at_once() -> None:
    threads = Threads()
    running = [Work() for _ in range(4)]
    tasks = [asyncio.create_task(threads.run(work)) for work in running]
    for work in running:
        await begun(work)
    waiting = Work()
    task = asyncio.create_task(threads.run(waiting))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for work in running:
        work.may_end.set()
    assert await asyncio.gather(*tasks) == ["done"] * 4
    assert not waiting.has_begun.is_set()


async def test_the_end_of_a_model_waits_for_running_work_and_refuses_what_waits() -> None:
    threads = Threads()
    running = [Work() for _ in range(4)]
    tasks = [asyncio.create_task(threads.run(work)) for work in running]
    for work in running:
        await begun(work)
    waiting = asyncio.create_task(threads.run(Work()))
    await asyncio.sleep(0)
    settled = asyncio.create_task(asyncio.to_thread(threads.settle))
    with pytest.raises(NotReady):
        await waiting
    assert not settled.done()
    for work in running:
        work.may_end.set()
    await settled
    assert await asyncio.gather(*tasks) == ["done"] * 4
    with pytest.raises(NotReady):
        await threads.run(Work())


def test_the_keys_of_an_object_make_a_value_long() -> None:
    assert not is_long({"a": "b" * 1000})
    assert is_long({LONG: 1})
    assert is_long({"a": [{LONG: None}]})


@pytest.mark.parametrize(
    "body",
    [
        {"a": 1},
        {"data": [{"embedding": [0.5] * 700, "index": n} for n in range(40)], "usage": {"total": 3}},
        {"tokens": list(range(30_000)), "empty": [], "none": None},
        [{"text": LONG + '\u2028"ş', "b": {}}, []],
        {"a": [[1] * 30_000, "x", {"b": [2] * 30_000}]},
    ],
)
async def test_a_long_answer_is_encoded_as_a_short_one(body: object) -> None:
    content = await encoded(body)
    assert json.loads(content) == body
    assert content == json_bytes(body)
