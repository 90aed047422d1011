"""Carries the events of requests from the thread that reads an engine's reports to the event loops that read them.

All events of a step are handed over in one call for each loop, not in one call for each token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from worker_gguf.generation.events import Event, Finished
from worker_gguf.generation.progress import Progress

__all__ = ["EventStream", "Outbox", "deliver"]

logger = logging.getLogger(__name__)

Items = dict[int, list[Event]]


class EventStream:
    """An async iterator over the events of a group of requests.

    Each item maps the index of a request in the group to its new events. The iterator ends after the last request's
    Finished. It is for one reader, on the event loop that created it. `cancel()` frees the slots before the engine's
    next step, and does nothing after the end. `progress` has one entry for each request.
    """

    def __init__(
        self,
        request_ids: tuple[str, ...],
        cancel: Callable[[str], None],
        progress: tuple[Progress, ...] = (),
        on_ended: Callable[[], None] | None = None,
    ) -> None:
        """`on_ended` is called once, when all requests have ended, even if nothing reads the stream any more or its
        loop is closed.
        """
        self.loop = asyncio.get_running_loop()
        self.progress = progress
        self._request_ids = request_ids
        self._cancel = cancel
        self._running = set(range(len(request_ids)))
        self._items: Items = {}
        self._n_left = len(request_ids)
        self.on_ended = on_ended
        self._arrived: asyncio.Future[None] | None = None

    def put(self, items: Items) -> None:
        """Add events. Call it on the stream's event loop."""
        if not self._items:
            self._items = items
        else:
            for index, events in items.items():
                self._items.setdefault(index, []).extend(events)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def is_last(self, items: Items) -> bool:
        """Return whether these items end the group. Called once for each delivery."""
        n_ended = sum(isinstance(events[-1], Finished) for events in items.values())
        self._n_left -= n_ended
        return bool(n_ended) and not self._n_left

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Items:
        if not self._running:
            raise StopAsyncIteration
        if not self._items:
            self._arrived = self.loop.create_future()
            try:
                await self._arrived
            finally:
                self._arrived = None
        items, self._items = self._items, {}
        self._running -= {index for index, events in items.items() if isinstance(events[-1], Finished)}
        return items

    def cancel(self) -> None:
        for index in self._running:
            self._cancel(self._request_ids[index])
        self._running = set()


Outbox = dict[EventStream, Items]


def deliver(outbox: Mapping[EventStream, Items]) -> None:
    """Give each stream its events, from any thread. Events for a closed event loop are dropped."""
    over = [stream for stream, items in outbox.items() if stream.is_last(items)]  # before the reader gets the items
    loops: dict[asyncio.AbstractEventLoop, list[tuple[EventStream, Items]]] = {}
    for stream, items in outbox.items():
        loops.setdefault(stream.loop, []).append((stream, items))
    for loop, parcels in loops.items():
        try:
            loop.call_soon_threadsafe(_put_all, parcels)
        except RuntimeError:
            if not loop.is_closed():
                raise
    for stream in over:
        if stream.on_ended is not None:
            try:
                stream.on_ended()
            except Exception:  # one callback must not stop the delivery to other streams
                logger.exception("the callback for the end of a request failed")


def _put_all(parcels: Iterable[tuple[EventStream, Items]]) -> None:
    for stream, items in parcels:
        stream.put(items)
