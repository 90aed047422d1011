"""A latch: set once from any thread, awaited on any event loop.

Waiting for it needs no thread, so closing an event loop does not have to wait for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading

__all__ = ["Latch"]


class Latch:
    """Starts unset, and stays set after the first call of `set`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._waiters: list[asyncio.Future[None]] = []

    def set(self) -> None:
        with self._lock:
            self._is_set = True
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            with contextlib.suppress(RuntimeError):  # the waiter's loop is closed
                waiter.get_loop().call_soon_threadsafe(_resolve, waiter)

    @property
    def is_set(self) -> bool:
        return self._is_set

    async def wait(self) -> None:
        with self._lock:
            if self._is_set:
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
        await waiter


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
