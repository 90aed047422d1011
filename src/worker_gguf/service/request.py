"""The request that the interfaces pass to the service, and its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from urllib.parse import parse_qsl

from msgspec import Struct

from worker_gguf.errors import InvalidRequest
from worker_gguf.observe.account import Account
from worker_gguf.protocol.dialect import Dialect
from worker_gguf.protocol.lookup import dialect_at, find, method_label
from worker_gguf.protocol.rendering import JsonBody
from worker_gguf.protocol.route import Match, Route

__all__ = ["Answer", "Request", "Stream", "close_events", "dialect_for", "request_for"]


class Request(Struct, frozen=True):
    """One request. `body` is the parsed JSON, or None without a body. `account` collects its times and counts.

    `query` has the parameters of the URL.
    """

    match: Match
    body: object
    account: Account
    query: Mapping[str, str] = MappingProxyType({})

    @property
    def route(self) -> Route:
        return self.match.route


class Answer(Struct, frozen=True):
    """A whole answer: a JSON body, and the names of ignored parameters."""

    body: JsonBody
    ignored: tuple[str, ...] = ()


class Stream(Struct, frozen=True):
    """A streamed answer. Each item of `events` is one or more whole events, in the framing of the route's dialect.

    To cancel the generation, call `aclose` on the iterator or cancel the task that reads it.
    """

    events: AsyncIterator[bytes]
    ignored: tuple[str, ...] = ()


async def close_events(events: AsyncIterator[bytes]) -> None:
    """Close the events of a stream, which cancels the generation unless it has ended."""
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()


def dialect_for(url: str) -> Dialect:
    """Return the dialect of the answers to a request that came without HTTP, also where there is no such route."""
    return dialect_at(url.partition("?")[0])


def request_for(method: str, url: str, body: object, account: Account) -> Request:
    """Return a request that came without HTTP, and note its route in the account. `url` is a path, with a query or not.

    Raises InvalidRequest, NotFound or MethodNotAllowed. Requests with an unknown route are counted as `other`.
    """
    account.routed(method_label(method), "other")
    if not url.startswith("/"):
        raise InvalidRequest("The route must start with '/', as in /v1/chat/completions.")
    path, _, query = url.partition("?")
    match = find(method, path)
    account.routed(match.route.method, match.route.path, match.route.operation)
    # As over HTTP, the last one of several values counts, and an empty value is kept.
    return Request(match, body, account, dict(parse_qsl(query, keep_blank_values=True)))
