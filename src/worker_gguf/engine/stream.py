"""A group of requests' events on their way from the engine's thread to an event loop.

All events of a step cross in one call per loop, not one per token.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from queue import SimpleQueue

from worker_gguf.engine.events import Event, Finished
from worker_gguf.engine.progress import Progress

__all__ = ["Courier", "EventStream", "Outbox"]

logger = logging.getLogger(__name__)

Items = dict[int, list[Event]]


class EventStream:
    """An async iterator over what came since the last look: events by the index of their request in the group.

    It ends after the last request's Finished. For one reader, on the loop it was made on. `cancel()` frees the slots
    before the engine's next step; after the ending it does nothing. `progress` has one for each request.
    """

    def __init__(
        self,
        request_ids: tuple[str, ...],
        cancel: Callable[[str], None],
        progress: tuple[Progress, ...] = (),
        on_ended: Callable[[], None] | None = None,
    ) -> None:
        """`on_ended` is called once, by the courier, when the engine is done with the group: whether or not somebody
        reads its end, and even if the loop is gone."""
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
        """Called on the loop."""
        if not self._items:
            self._items = items
        else:
            for index, events in items.items():
                self._items.setdefault(index, []).extend(events)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def is_last(self, items: Items) -> bool:
        """Whether the group ends with these. Called by the courier, once for each that it is to send."""
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


class Courier:
    """Carries outboxes to the event loops in a thread of its own.

    Waking a loop is a system call, which releases the interpreter lock; the loop's thread then takes it and keeps it
    while it renders and sends. The engine's thread would wait for that before its next decode. Putting an outbox into a
    queue releases nothing: the courier runs once the decode has begun.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Outbox | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, outbox: Outbox) -> None:
        self._queue.put(outbox)

    def stop(self) -> None:
        """Return when all that was sent is delivered."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (outbox := self._queue.get()) is not None:
            _deliver(outbox)


def _deliver(outbox: Mapping[EventStream, Items]) -> None:
    """Hand each stream its events. Callable from any thread. Events for a closed loop are dropped."""
    over = [stream for stream, items in outbox.items() if stream.is_last(items)]  # later, the items are their reader's
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
            except Exception:  # the courier carries everybody's events
                logger.exception("the end of a request was not noted")


def _put_all(parcels: Iterable[tuple[EventStream, Items]]) -> None:
    for stream, items in parcels:
        stream.put(items)
