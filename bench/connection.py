"""One small HTTP/1.1 connection on asyncio."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from bench.wire import ResponseParser


class StaleConnectionError(ConnectionError):
    """The server closed the connection before a byte of its answer."""


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: ResponseParser | None = None
        self._ended: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._ended is None or self._ended.done():
            return
        try:
            self._parser.feed(data)
        except ValueError as error:
            self._ended.set_exception(ConnectionError(f"unreadable answer: {error}"))
        else:
            if self._parser.done:
                self._ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._parser is None or self._ended is None or self._ended.done():
            return
        if not self._parser.begun:
            self._ended.set_exception(StaleConnectionError("the server closed the connection without an answer"))
        elif self._parser.ends_whole():
            self._ended.set_result(None)
        else:
            self._ended.set_exception(ConnectionError("the server closed the connection in the middle of an answer"))

    async def exchange(self, host: str, port: int, request: bytes, on_body: Callable[[bytes], None]) -> int:
        """Send the request, connecting first where needed, and return the status when the answer is whole."""
        if self._transport is not None and not self._transport.is_closing():
            # llama-server closes some connections right after an answer, and only says so when it is too late.
            with suppress(StaleConnectionError):
                return await self._exchange(request, on_body)
        await asyncio.get_running_loop().create_connection(lambda: self, host, port)
        return await self._exchange(request, on_body)

    async def _exchange(self, request: bytes, on_body: Callable[[bytes], None]) -> int:
        assert self._transport is not None
        self._parser, self._ended = ResponseParser(on_body), asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._ended
        if not self._parser.keeps_alive:
            self.close()
        return self._parser.status

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
