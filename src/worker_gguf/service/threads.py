"""Runs the work of requests in other threads, so that it does not block an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

from worker_gguf.errors import NotReady

__all__ = ["Threads", "is_long", "off_loop_if_long"]

T = TypeVar("T")

# Values with more characters and items than this are worked on in another thread.
_INLINE_VALUES = 20_000
# So many requests at once may have long work to do; others wait for them.
_MOST = 4


class Threads:
    """The threads of one model. Its vocabulary must not be freed before `settle`. Used on several event loops."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_MOST, "requests")

    async def run(self, work: Callable[[], T]) -> T:
        """Run work in another thread. Raises NotReady after `settle`.

        If its task is cancelled, it still returns only when the work has ended. So what the work uses, such as the
        model of a request, can be released then.
        """
        try:
            running = self._pool.submit(copy_context().run, work)
        except RuntimeError:
            raise _unloaded() from None
        waiting = asyncio.wrap_future(running)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if running.cancelled():  # by `settle`, before it began
                raise _unloaded() from None
            if not running.cancel():
                await _end_of(running)
            raise

    async def run_if_long(self, value: object, work: Callable[[], T]) -> T:
        """Run work in another thread if the value that it works on is long."""
        return await self.run(work) if is_long(value) else work()

    def settle(self) -> None:
        """Wait until no work runs any more. Work that waits is not begun."""
        self._pool.shutdown(cancel_futures=True)


async def off_loop_if_long(value: object, work: Callable[[], T]) -> T:
    """Run work that uses no model in another thread, if the value that it works on is long."""
    return await asyncio.to_thread(work) if is_long(value) else work()


def is_long(value: object) -> bool:
    """Return whether a value of JSON has more than _INLINE_VALUES characters and items. Stops counting there."""
    left = _INLINE_VALUES
    todo = [value]
    while todo and left > 0:
        item = todo.pop()
        left -= 1
        if isinstance(item, str):
            left -= len(item)
        elif isinstance(item, list | dict) and (left := left - len(item)) > 0:
            todo += (*item, *item.values()) if isinstance(item, dict) else item
    return left <= 0


async def _end_of(running: Future[T]) -> None:
    """Return when work has ended, however often this task is cancelled meanwhile."""
    while not running.done():
        ended = asyncio.get_running_loop().create_future()
        running.add_done_callback(lambda _, ended=ended: _set(ended))  # type: ignore[misc]
        with suppress(asyncio.CancelledError):
            await ended


def _set(ended: asyncio.Future[None]) -> None:
    with suppress(RuntimeError):  # the loop is closed, so nobody waits
        ended.get_loop().call_soon_threadsafe(lambda: None if ended.done() else ended.set_result(None))


def _unloaded() -> NotReady:
    return NotReady("The model is being unloaded. Try again shortly.", retry_after_s=1)
