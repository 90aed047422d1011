"""Reads one line of OpenAI's batch format: `{"custom_id", "method", "url", "body"}`."""

from __future__ import annotations

from msgspec import Struct

from worker_gguf.batch.lines import Line
from worker_gguf.errors import InvalidRequest, PayloadTooLarge, RequestError
from worker_gguf.protocol.screening import bounded
from worker_gguf.protocol.wellformed import read_json

__all__ = ["BatchRequest", "BrokenLine", "read_request"]

_KNOWN = ("custom_id", "method", "url", "body")


class BatchRequest(Struct, frozen=True):
    """The request in a line. The service checks its body."""

    custom_id: str
    method: str
    url: str
    body: object
    ignored: tuple[str, ...] = ()
    """Other names in the line, which have no meaning."""


class BrokenLine(Exception):
    """A line is no request. `error` says why and names the line. `custom_id` is that of the line if it has one."""

    def __init__(self, error: RequestError, custom_id: str | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.custom_id = custom_id


def read_request(line: Line) -> BatchRequest:
    """Read the request in a line. Raises BrokenLine."""
    custom_id: str | None = None
    try:
        if line.raw is None:
            raise PayloadTooLarge("The line is over the limit. Shorten it or raise MAX_BODY_MB.")
        fields = read_json(line.raw, "line")
        if not isinstance(fields, dict):
            raise InvalidRequest("The line must be a JSON object with 'custom_id', 'method', 'url' and 'body'.")
        custom_id = _text(fields, "custom_id")
        method, url, body = _text(fields, "method").upper(), _text(fields, "url"), fields.get("body")
    except RequestError as error:
        raise BrokenLine(type(error)(f"{line.name}: {error.message}", param=error.param), custom_id) from None
    known = set(_KNOWN)
    if method == "GET" and body is not None:  # as over HTTP, where the body of a GET is not read
        known.remove("body")
    return BatchRequest(custom_id, method, url, None if method == "GET" else body, bounded(fields.keys() - known))


def _text(fields: dict[str, object], name: str) -> str:
    if name not in fields:
        raise InvalidRequest(f"'{name}' is missing.", param=name)
    value = fields[name]
    if not isinstance(value, str):
        raise InvalidRequest(f"'{name}' must be a string.", param=name)
    return value
