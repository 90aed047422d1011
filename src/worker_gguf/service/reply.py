"""Turns the engine's events for a request into the events of a stream, or into one answer at the end."""

from __future__ import annotations

from worker_gguf.generation.events import Event, Finished
from worker_gguf.generation.stream import EventStream
from worker_gguf.observe.account import Account
from worker_gguf.protocol.dialect import Dialect, Wording
from worker_gguf.protocol.names import AS_SENT, Names
from worker_gguf.protocol.rendering import JsonBody, Rendering

__all__ = ["Reply", "collect"]


class Reply:
    """An async iterator of whole events.

    It is a class because closing it must cancel the generation even before the first item. Closing a generator that has
    not started runs none of its code.
    """

    def __init__(
        self,
        stream: EventStream,
        rendering: Rendering,
        dialect: Dialect,
        account: Account,
        names: Names = AS_SENT,
    ) -> None:
        """`dialect` renders an error that occurs after the first event was sent. `names` are those of its field."""
        self.rendering = rendering
        self.stream = stream
        self._dialect = dialect
        self._account = account
        self._names = names
        self._has_sent = False
        self._is_over = False

    def __aiter__(self) -> Reply:
        return self

    async def __anext__(self) -> bytes:
        """Return the next events. Raises the WorkerError that ends the answer, but only before the first event.

        A later error is returned as an event.
        """
        while not self._is_over:
            try:
                items = await anext(self.stream, None)
            except BaseException:
                await self.aclose()
                raise
            if items is None:
                self._is_over = True
                if end := self.rendering.stream_end():
                    return end
                break
            data = b"".join(self.rendering.stream(index, events) for index, events in items.items())
            self._note(items)
            if (failed := self.rendering.error) is not None:
                await self.aclose()
                error = self._names.worded(failed)
                if not self._has_sent:
                    raise error
                wording = Wording(error, self._account.request_id)
                return data + (self.rendering.failure(wording) or self._dialect.ending(wording))
            if data:
                self._has_sent = True
                return data
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel the generation unless it has ended."""
        self._is_over = True
        self.stream.cancel()

    def answer(self) -> JsonBody:
        """Return the whole answer. Raises the WorkerError that ended it."""
        with self._names.in_errors():
            return self.rendering.answer()

    async def events(self) -> dict[int, list[Event]] | None:
        """Return the next events before rendering, or None at the end. `answer` raises their error later."""
        items = await anext(self.stream, None)
        self._note(items or {})
        return items

    def _note(self, items: dict[int, list[Event]]) -> None:
        for index, events in items.items():
            if isinstance(last := events[-1], Finished):
                self._account.finished(index, last)
                self._account.error = self.rendering.error


async def collect(reply: Reply) -> JsonBody:
    """Return the whole answer. Raises the WorkerError that ended it. Cancelling it cancels the generation."""
    rendering = reply.rendering
    try:
        while (items := await reply.events()) is not None:
            for index, events in items.items():
                rendering.collect(index, events)
            if rendering.error is not None:
                break
    finally:
        await reply.aclose()
    return reply.answer()
