"""Tests of the latch."""

from __future__ import annotations

import asyncio
import threading

from worker_gguf.latch import Latch


def test_a_set_latch_does_not_wait() -> None:
    latch = Latch()
    latch.set()
    asyncio.run(asyncio.wait_for(latch.wait(), 10))


def test_setting_it_in_a_thread_wakes_every_waiter() -> None:
    latch = Latch()

    async def scenario() -> None:
        waiting = [asyncio.create_task(latch.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        threading.Thread(target=latch.set).start()
        await asyncio.wait_for(asyncio.gather(*waiting), 10)

    asyncio.run(scenario())


def test_a_waiter_that_left_and_a_closed_loop_are_no_error() -> None:
    latch = Latch()

    async def leave() -> None:
        task = asyncio.create_task(latch.wait())
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    latch.set()
    asyncio.run(asyncio.wait_for(latch.wait(), 10))
