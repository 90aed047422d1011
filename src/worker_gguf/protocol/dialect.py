"""A dialect: what the routes of one API have in common in the eyes of its clients. Errors, streams, names of fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct

from worker_gguf.errors import WorkerError

__all__ = ["SSE", "Dialect", "Framing", "Wording"]

_QUOTED = re.compile(r"'([A-Za-z_][\w.]*)'")


class Framing(Struct, frozen=True):
    """How the parts of a stream are framed. `keep_alive` is sent where nothing else was for some time."""

    media_type: str
    keep_alive: bytes


# Clients ignore lines that begin with a colon (html.spec.whatwg.org/multipage/server-sent-events.html).
SSE: Final = Framing("text/event-stream; charset=utf-8", b": ping\n\n")


class Wording(Struct, frozen=True):
    """An error in the words of a dialect. `param` is the name that the dialect has for the wrong field."""

    error: WorkerError
    message: str
    param: str | None
    request_id: str


class Dialect(Struct, frozen=True):
    """What the routes of one API have in common.

    `body` returns the JSON of an error, and `ending` the events that end a stream with one. `status` returns the HTTP
    status of an error. `names` maps names of fields, as the parsers of this package use them, to those of the dialect.
    A name also stands for the fields in it: with `{"a": "b"}`, `a.c` becomes `b.c`. The name of a field whose inside is
    different in the dialect ends with a dot: with `{"a": "b."}`, `a.0.c` becomes `b`. A star is a place in a list: with
    `{"a.*.b": "a.*.c"}`, `a.0.b` becomes `a.0.c`. An answer has the id of its request in each of `id_headers`.
    """

    name: str
    body: Callable[[Wording], dict[str, Any]]
    ending: Callable[[Wording], bytes]
    framing: Framing = SSE
    status: Callable[[WorkerError], int] = lambda error: error.status
    names: Mapping[str, str] = MappingProxyType({})
    id_headers: tuple[str, ...] = ("X-Request-Id",)

    def error_body(self, error: WorkerError, request_id: str = "") -> dict[str, Any]:
        """Return the JSON of an error."""
        return self.body(self.worded(error, request_id))

    def error_ending(self, error: WorkerError, request_id: str = "") -> bytes:
        """Return the events that end a stream with an error."""
        return self.ending(self.worded(error, request_id))

    def named(self, names: Iterable[str]) -> list[str]:
        """Return names of fields as the dialect has them."""
        return [self._named(name) for name in names] if self.names else list(names)

    def worded(self, error: WorkerError, request_id: str) -> Wording:
        """Return an error in the words of the dialect."""
        if not self.names or error.param is None:
            return Wording(error, error.message, error.param, request_id)
        message = _QUOTED.sub(lambda found: f"'{self._named(found[1])}'", error.message)
        return Wording(error, message, self._named(error.param), request_id)

    def _named(self, name: str) -> str:
        parts = name.split(".")
        general = ["*" if part.isdigit() else part for part in parts]
        for n in range(len(parts), 0, -1):
            own = self.names.get(".".join(general[:n]))
            if own is not None:
                for place in filter(str.isdigit, parts[:n]):
                    own = own.replace("*", place, 1)
                return own[:-1] if own.endswith(".") else ".".join((own, *parts[n:]))
        return name
