"""Runs work for a client, and cancels it when the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from worker_gguf.http.body import ClientGone, Receive
from worker_gguf.service.request import Stream, close_events

__all__ = ["Connection"]

T = TypeVar("T")


class Connection:
    """Watches an ASGI `receive` for the client's disconnect. Create it after the body was read, and `close` it."""

    def __init__(self, receive: Receive) -> None:
        self._watcher = asyncio.create_task(_gone(receive))

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` and return its result. Cancels it and raises ClientGone if the client disconnects first."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._watcher}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
                await _close_orphan(task)

    async def close(self) -> None:
        self._watcher.cancel()
        await asyncio.wait({self._watcher})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _close_orphan(task: asyncio.Task[T]) -> None:
    # The call may have finished in the step in which it was cancelled. Then nothing else would close its stream.
    if task.cancelled() or task.exception() is not None:
        return
    result = task.result()
    if isinstance(result, Stream):
        await close_events(result.events)
