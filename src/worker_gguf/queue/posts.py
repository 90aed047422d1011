"""A stream's events, gathered for a queue whose every post costs a round trip.

The first event leaves at once. While it is being posted the next ones gather here, and leave together in the next
post: never more than one post behind, in order, no event split. Where many streams post at once, each post takes time
from the engine, so they gather a little longer, at most GATHER_S beyond the round trip.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from worker_gguf.service.request import close_events

__all__ = ["GATHER_S", "MAX_POST_BYTES", "Posts", "StreamCount"]

# The platform splits posts over 1 MB at any byte.
MAX_POST_BYTES = 900_000


GATHER_S = 0.02
_MANY = 9


class StreamCount:
    """The streams that are generated in one worker, each posted on its own."""

    def __init__(self) -> None:
        self.n_streams = 0

    def enter(self, stream: asyncio.Task[None]) -> None:
        self.n_streams += 1
        stream.add_done_callback(self._leave)

    def _leave(self, _: asyncio.Task[None]) -> None:
        self.n_streams -= 1

    @property
    def gather_s(self) -> float:
        """How long a post waits for company: not at all for a stream that is alone."""
        return GATHER_S * min(1.0, max(0, self.n_streams - 1) / (_MANY - 1))


class Posts:
    """Reads `events` ahead in a task of its own. Iterate it for posts, and `close` it in any case."""

    def __init__(self, events: AsyncIterator[bytes], stream_count: StreamCount | None = None) -> None:
        self._events = events
        self._stream_count = stream_count or StreamCount()
        self._has_begun = False
        self._waiting: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._is_cancelled = False
        self._reader = asyncio.create_task(self._read())
        self._stream_count.enter(self._reader)

    def __aiter__(self) -> Posts:
        return self

    async def __anext__(self) -> str:
        if self._has_begun and (gather_s := self._stream_count.gather_s):
            await asyncio.wait({self._reader}, timeout=gather_s)  # a stream that ends waits no more
        while not self._waiting:
            if self._reader.done():
                self._reader.result()  # raises the stream's error, after everything before it was posted
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        self._has_begun = True
        return self._take().decode()

    def cancel(self) -> None:
        """Cancel the generation unless it has ended. Needs no coroutine; a second time does nothing."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self._reader.cancel()

    async def close(self) -> None:
        """Cancel, and return when the slot is given back."""
        self.cancel()
        await asyncio.wait({self._reader})
        await close_events(self._events)  # the reader does it too, unless it was cancelled before its first step

    async def _read(self) -> None:
        try:
            async for event in self._events:
                self._waiting.append(event)
                self._arrived.set()
        finally:
            self._arrived.set()
            await close_events(self._events)

    def _take(self) -> bytes:
        post = bytearray(self._waiting.popleft())
        while self._waiting and len(post) + len(self._waiting[0]) <= MAX_POST_BYTES:
            post += self._waiting.popleft()
        return bytes(post)
