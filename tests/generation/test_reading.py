"""Tests of who reads the reports: an event loop while it runs, and otherwise the thread. No report is lost or late."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.fakes import step
from tests.waiting import wait_until
from worker_gguf.generation import reading
from worker_gguf.generation.reading import Reading
from worker_gguf.link.channel import Channel, ChannelClosed
from worker_gguf.link.messages import Command, Report, Step


class Desk:
    """The two ends of a channel, and a thread that reads one of them."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._ours: Channel[Report] = Channel(ours, Report)
        self._theirs: Channel[Command] = Channel(theirs, Command)
        self.taken: list[tuple[int, asyncio.AbstractEventLoop | None]] = []
        self.reading = Reading(self._take)
        self.has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self._theirs.send(step(waiting=number))

    def hang_up(self) -> None:
        self._theirs.close()

    def close(self) -> None:
        self.reading.recall()
        self._theirs.close()
        self._thread.join(10)
        self._ours.close()

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.taken]

    def _take(self, report: Report, loop: asyncio.AbstractEventLoop | None) -> None:
        assert isinstance(report, Step)
        self.taken.append((report.waiting, loop))

    def _run(self) -> None:
        try:
            self.reading.run(self._ours)  # type: ignore[arg-type]
        except ChannelClosed:
            self.has_ended.set()


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(reading, "CHECK_S", 0.05)
    made = Desk()
    yield made
    made.close()


async def borrow(desk: Desk, number: int = 0) -> asyncio.AbstractEventLoop:
    """Offer the running event loop, and return it when it reads."""
    loop = asyncio.get_running_loop()
    desk.reading.offer(loop)
    while not desk.taken or desk.taken[-1][1] is not loop:
        number += 1
        desk.send(number)
        n_taken = number
        async with asyncio.timeout(10):
            while len(desk.taken) < n_taken:
                await asyncio.sleep(0)
    return loop


def test_without_an_event_loop_the_thread_reads(desk: Desk) -> None:
    desk.send(1, 2)
    wait_until(lambda: len(desk.taken) == 2, 10)
    assert desk.taken == [(1, None), (2, None)]


async def test_the_event_loop_reads_and_no_report_is_lost_on_the_way(desk: Desk) -> None:
    desk.reading.offer(asyncio.get_running_loop())
    desk.send(*range(100))
    async with asyncio.timeout(10):
        while len(desk.taken) < 100:
            await asyncio.sleep(0)
    assert desk.numbers == [*range(100)]
    assert desk.taken[0][1] is None


async def test_the_thread_reads_while_the_event_loop_hangs(desk: Desk) -> None:
    await borrow(desk)
    n_before = len(desk.taken)
    desk.send(*range(n_before + 1, n_before + 4))
    wait_until(lambda: len(desk.taken) == n_before + 3, 10)  # this blocks the event loop
    assert [loop for _, loop in desk.taken[-3:]] == [None] * 3
    await borrow(desk, n_before + 3)
    assert desk.numbers == [*range(1, len(desk.taken) + 1)]


def test_another_event_loop_reads_after_the_first_is_closed(desk: Desk) -> None:
    first = asyncio.run(borrow(desk))
    n_before = len(desk.taken)
    second = asyncio.run(borrow(desk, n_before))
    assert first is not second
    assert desk.numbers == [*range(1, len(desk.taken) + 1)]


async def test_the_thread_learns_of_the_end_of_a_process_whose_reports_an_event_loop_reads(desk: Desk) -> None:
    await borrow(desk)
    desk.hang_up()
    assert await asyncio.to_thread(desk.has_ended.wait, 10)
