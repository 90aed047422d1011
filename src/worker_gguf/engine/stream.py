"""A request's events on their way from the engine's thread to an event loop.

All events of a step cross in one call per loop, not one per token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from worker_gguf.engine.events import Event, Finished

__all__ = ["EventStream", "deliver"]


class EventStream:
    """An async iterator of lists of events, ending after the list with Finished. For one reader, on the loop it was
    made on. `cancel()` frees the slot before the engine's next step; after the ending it does nothing."""

    def __init__(self, request_id: str, cancel: Callable[[str], None]) -> None:
        self.request_id = request_id
        self.loop = asyncio.get_running_loop()
        self.is_finished = False
        self._cancel = cancel
        self._events: list[Event] = []
        self._arrived: asyncio.Future[None] | None = None

    def put(self, events: list[Event]) -> None:
        """Called on the loop."""
        self._events += events
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> list[Event]:
        if self.is_finished:
            raise StopAsyncIteration
        if not self._events:
            self._arrived = self.loop.create_future()
            try:
                await self._arrived
            finally:
                self._arrived = None
        events, self._events = self._events, []
        if isinstance(events[-1], Finished):
            self.is_finished = True
        return events

    def cancel(self) -> None:
        if not self.is_finished:
            self._cancel(self.request_id)


def deliver(outbox: dict[EventStream, list[Event]]) -> None:
    """Hand each stream its events, from any thread. A loop that is closed has nobody left to tell."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[EventStream, list[Event]]]] = {}
    for stream, events in outbox.items():
        loops.setdefault(stream.loop, []).append((stream, events))
    for loop, items in loops.items():
        try:
            loop.call_soon_threadsafe(_put_all, items)
        except RuntimeError:
            if not loop.is_closed():
                raise


def _put_all(items: Iterable[tuple[EventStream, list[Event]]]) -> None:
    for stream, events in items:
        stream.put(events)
