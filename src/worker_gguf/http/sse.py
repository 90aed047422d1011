"""Sends a stream of events, and something that clients ignore when no event was sent for some time.

Load balancers and clients close a connection that is silent for too long, for example during a long prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct
from starlette.types import Send

from worker_gguf.protocol.dialect import SSE

__all__ = ["NO_PINGS", "EventSender", "Pings"]


class Pings(Struct, frozen=True):
    """Seconds of silence before a ping: `first_s` before the first event, `every_s` afterwards.

    No pings are sent if `every_s` is 0. The first ping is sent after the status line 200, and then an error can
    no longer have its own status. So `first_s` should be so long that the request can no longer be refused.
    """

    every_s: float = 0.0
    first_s: float = 0.0

    @classmethod
    def within(cls, every_s: float, queue_timeout_s: float | None) -> Pings:
        """Build Pings for streams that can be refused while they are queued, until `queue_timeout_s`."""
        return cls(every_s, max(every_s, queue_timeout_s or 0.0))


NO_PINGS: Final = Pings()


class EventSender:
    """Sends one stream. Each message is one or more whole events, or one ping. Always call `close`."""

    def __init__(self, start: Callable[[], Awaitable[None]], send: Send, pings: Pings, ping: bytes = SSE.keep_alive):
        """`start` sends the status line and the headers. It is called once, before the first event or ping."""
        self.has_started = False
        self._start = start
        self._send = send
        self._pings = pings
        self._ping_bytes = ping
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._sending = asyncio.Lock()
        self._pinging = asyncio.create_task(self._ping()) if pings.every_s else None

    async def send(self, event: bytes) -> None:
        async with self._sending:
            await self._write(event, more=True)

    async def end(self) -> None:
        await self.close()
        await self._write(b"", more=False)

    async def close(self) -> None:
        """Stop sending pings."""
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.wait({self._pinging})

    async def _write(self, content: bytes, *, more: bool) -> None:
        if not self.has_started:
            self.has_started = True
            await self._start()
        await self._send({"type": "http.response.body", "body": content, "more_body": more})
        self._last_s = self._loop.time()

    async def _ping(self) -> None:
        while True:
            longest_s = self._pings.every_s if self.has_started else self._pings.first_s
            left_s = self._last_s + longest_s - self._loop.time()
            if left_s > 0:
                await asyncio.sleep(left_s)
            elif not self._sending.locked():  # otherwise an event is being sent to a client that reads slowly
                await self.send(self._ping_bytes)
            else:
                await asyncio.sleep(longest_s)
