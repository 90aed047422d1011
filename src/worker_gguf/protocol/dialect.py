"""A dialect: what the routes of one API have in common in the eyes of its clients: the form of errors and streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from worker_gguf.errors import WorkerError

__all__ = ["SSE", "Dialect", "Framing", "Wording"]


class Framing(Struct, frozen=True):
    """How the parts of a stream are framed. `keep_alive` is sent where nothing else was for some time."""

    media_type: str
    keep_alive: bytes


# Clients ignore lines that begin with a colon (html.spec.whatwg.org/multipage/server-sent-events.html).
SSE: Final = Framing("text/event-stream; charset=utf-8", b": ping\n\n")


class Wording(Struct, frozen=True):
    """An error as it is told to a client. Its names of fields are those that the client sent (protocol/names.py)."""

    error: WorkerError
    request_id: str

    @property
    def message(self) -> str:
        return self.error.message

    @property
    def param(self) -> str | None:
        return self.error.param


class Dialect(Struct, frozen=True):
    """What the routes of one API have in common.

    `body` returns the JSON of an error, and `ending` the events that end a stream with one. `status` returns the HTTP
    status of an error. An answer has the id of its request in each of `id_headers`.
    """

    name: str
    body: Callable[[Wording], dict[str, Any]]
    ending: Callable[[Wording], bytes]
    framing: Framing = SSE
    status: Callable[[WorkerError], int] = lambda error: error.status
    id_headers: tuple[str, ...] = ("X-Request-Id",)

    def error_body(self, error: WorkerError, request_id: str = "") -> dict[str, Any]:
        """Return the JSON of an error."""
        return self.body(Wording(error, request_id))

    def error_ending(self, error: WorkerError, request_id: str = "") -> bytes:
        """Return the events that end a stream with an error."""
        return self.ending(Wording(error, request_id))
