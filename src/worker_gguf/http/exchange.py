"""Handles one HTTP request: checks the key, reads the body, sends the answer or the stream, logs one line."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from worker_gguf.errors import WorkerError
from worker_gguf.http.auth import ApiKeys
from worker_gguf.http.body import ClientGone, parse_body, read_body
from worker_gguf.http.connection import Connection
from worker_gguf.http.encoding import coding_of, decode
from worker_gguf.http.sse import NO_PINGS, EventSender, Pings
from worker_gguf.observe.account import CANCELLED, Account
from worker_gguf.observe.ending import note_ending
from worker_gguf.observe.log import bound
from worker_gguf.observe.metrics import Metrics
from worker_gguf.protocol.lookup import find
from worker_gguf.protocol.route import Route
from worker_gguf.protocol.screening import ignored_header
from worker_gguf.service.backend import Backend
from worker_gguf.service.envelope import encoded, header_pairs, json_bytes, log_unexpected, request_id_from
from worker_gguf.service.request import Answer, Request, Stream, close_events

if TYPE_CHECKING:
    from worker_gguf.observe.telemetry import Telemetry

__all__ = ["Exchange", "Frame"]

logger = logging.getLogger(__name__)

_INLINE_BYTES = 1 << 18
_UNEXPECTED = "The worker failed on this request. Its log has the details under this request's id."
_STREAM_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # otherwise nginx delays events
}


class Frame(Struct, frozen=True):
    """The objects and limits that all requests share."""

    backend: Backend
    keys: ApiKeys
    max_body_bytes: int
    metrics: Metrics
    telemetry: Telemetry | None = None
    worker_id: str | None = None
    pings: Pings = NO_PINGS


class Exchange(Response):
    """A Starlette response that does all the work when it is called, to watch the client during the work."""

    def __init__(self, frame: Frame, route: Route) -> None:
        super().__init__()
        self._frame = frame
        self._route = route
        self._status = 0  # nothing sent yet
        self._n_events = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._request_id = request_id_from(headers.get("x-request-id"))
        self._account = Account(
            "http",
            self._request_id,
            traceparent=headers.get("traceparent"),
            tracestate=headers.get("tracestate"),
        )
        self._account.routed(scope["method"], self._route.path, self._route.operation)
        with bound(request_id=self._request_id):
            try:
                await self._exchange(scope, headers, receive, send)
            except ClientGone:
                # Some clients close the connection when they have read the last event of a stream.
                if not (self._status and self._account.is_answered):
                    self._status = CANCELLED
            except WorkerError as error:
                await self._refuse(error, send)
            except Exception as error:  # noqa: BLE001 - the last resort: a bug must be answered too
                log_unexpected(logger, error)
                await self._refuse(WorkerError(_UNEXPECTED), send)
            finally:
                self._note()

    async def _exchange(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        frame = self._frame
        frame.keys.check(headers.get("authorization"), headers.get("x-api-key"))
        match = find(self._route.method, scope["path"])  # Starlette's router accepts some paths that are no route
        raw = await read_body(receive, headers.get("content-length"), frame.max_body_bytes)
        body = (
            None
            if self._route.method == "GET"
            else await self._parse(raw, ", ".join(headers.getlist("content-encoding")))
        )
        connection = Connection(receive)
        try:
            result = await connection.run(
                frame.backend.answer(Request(match, body, self._account, QueryParams(scope["query_string"])))
            )
            if isinstance(result, Answer):
                await self._answer(result, send)
                return
            try:
                await connection.run(self._stream(result, send))
            finally:
                await close_events(result.events)
        finally:
            await connection.close()

    async def _parse(self, raw: bytes, content_encoding: str) -> object:
        """Parse a body. A large or compressed body is parsed in another thread, so that it does not delay other
        requests.
        """
        coding = coding_of(content_encoding)
        read = partial(_read, raw, coding, self._frame.max_body_bytes)
        return read() if coding is None and len(raw) <= _INLINE_BYTES else await asyncio.to_thread(read)

    async def _answer(self, answer: Answer, send: Send) -> None:
        await self._send_json(200, await encoded(answer.body), self._ignored(answer.ignored), send)

    async def _stream(self, stream: Stream, send: Send) -> None:
        framing = self._route.dialect.framing
        headers = {"Content-Type": framing.media_type, **_STREAM_HEADERS, **self._ignored(stream.ignored)}
        start = partial(self._start, 200, headers, send)
        sender = EventSender(start, send, self._frame.pings, framing.keep_alive)
        try:
            await self._send_events(stream, sender)
            await sender.end()
        finally:
            await sender.close()

    async def _send_events(self, stream: Stream, sender: EventSender) -> None:
        """Send the events of a stream.

        An error before the status line is raised and gets its own status. A later error is sent as the last event.
        """
        try:
            async for event in stream.events:
                self._n_events += 1
                await sender.send(event)
        except WorkerError as error:
            if not sender.has_started:
                raise
            await self._end_stream(error, sender)
        except Exception as error:
            if not sender.has_started:
                raise
            log_unexpected(logger, error)
            await self._end_stream(WorkerError(_UNEXPECTED), sender)

    async def _end_stream(self, error: WorkerError, sender: EventSender) -> None:
        self._account.error = error
        await sender.send(self._route.dialect.error_ending(error, self._request_id))

    async def _refuse(self, error: WorkerError, send: Send) -> None:
        self._account.error = error
        if self._status:  # part of an answer was already sent; uvicorn closes the connection
            return
        dialect = self._route.dialect
        body = json_bytes(dialect.error_body(error, self._request_id))
        await self._send_json(dialect.status(error), body, error.headers, send)

    async def _send_json(self, status: int, content: bytes, headers: dict[str, str], send: Send) -> None:
        sized = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        await self._start(status, sized | headers, send)
        await send({"type": "http.response.body", "body": content})

    async def _start(self, status: int, headers: dict[str, str], send: Send) -> None:
        self._status = status
        own = dict.fromkeys(self._route.dialect.id_headers, self._request_id)
        if self._frame.worker_id:
            own["X-Worker-Id"] = self._frame.worker_id
        if self._frame.backend.status() not in ("starting", "ready", "reloading"):
            # A client must not reuse a connection that is about to be closed.
            own["Connection"] = "close"
        pairs = header_pairs(headers | own)
        await send({"type": "http.response.start", "status": status, "headers": pairs})

    def _ignored(self, names: tuple[str, ...]) -> dict[str, str]:
        return {"X-Ignored-Parameters": ignored_header(names)} if names else {}

    def _note(self) -> None:
        record = self._account.close(self._status or CANCELLED)  # 0: cancelled before any byte
        also: dict[str, object] = {"events": self._n_events} if self._n_events else {}
        note_ending(record, self._frame.metrics, self._frame.telemetry, logger, **also)


def _read(raw: bytes, coding: str | None, limit_bytes: int) -> object:
    return parse_body(decode(raw, coding, limit_bytes) if coding and raw else raw)
