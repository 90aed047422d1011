"""Gathers the events of a stream into posts, because each post to the queue costs a round trip.

The first event is posted immediately. During a post, the next events are gathered for the next post, in order and
without splitting an event. If many streams post at the same time, each post takes time from the engine, so their events
are gathered longer, by at most GATHER_S beyond the round trip.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from worker_gguf.service.request import close_events

__all__ = ["GATHER_S", "MAX_POST_BYTES", "Posts", "StreamCount"]

# The platform splits posts over 1 MB at arbitrary bytes.
MAX_POST_BYTES = 900_000


GATHER_S = 0.02
_MANY = 9


class StreamCount:
    """Counts the streams of one worker that are being generated."""

    def __init__(self) -> None:
        self.n_streams = 0

    def enter(self, stream: asyncio.Task[None]) -> None:
        self.n_streams += 1
        stream.add_done_callback(self._leave)

    def _leave(self, _: asyncio.Task[None]) -> None:
        self.n_streams -= 1

    @property
    def gather_s(self) -> float:
        """The seconds for which a post waits for more events, from 0 for a single stream to GATHER_S."""
        return GATHER_S * min(1.0, max(0, self.n_streams - 1) / (_MANY - 1))


class Posts:
    """An async iterator of posts. Reads `events` ahead in a separate task. Always call `close`."""

    def __init__(self, events: AsyncIterator[bytes], stream_count: StreamCount | None = None) -> None:
        self._events = events
        self._stream_count = stream_count or StreamCount()
        self._has_started = False
        self._waiting: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._is_cancelled = False
        self._reader = asyncio.create_task(self._read())
        self._stream_count.enter(self._reader)

    def __aiter__(self) -> Posts:
        return self

    async def __anext__(self) -> str:
        if self._has_started and (gather_s := self._stream_count.gather_s):
            await asyncio.wait({self._reader}, timeout=gather_s)  # return early if the stream ends
        while not self._waiting:
            if self._reader.done():
                self._reader.result()  # raise the stream's error, after all earlier events were posted
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        self._has_started = True
        return self._take().decode()

    def cancel(self) -> None:
        """Cancel the generation unless it has ended. A second call does nothing."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self._reader.cancel()

    async def close(self) -> None:
        """Cancel the generation and stop reading. The slot is free before the engine's next step."""
        self.cancel()
        await asyncio.wait({self._reader})
        await close_events(self._events)  # the reader does not, if it was cancelled before its first step

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
