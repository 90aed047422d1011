"""The request that the HTTP and queue interfaces pass to the service, and its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from worker_gguf.observe.account import Account
from worker_gguf.protocol.routes import Match, Route

__all__ = ["Answer", "Request", "Stream", "close_events"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `body` is the parsed JSON, or None without a body. `account` collects its times and counts."""

    match: Match
    body: object
    account: Account

    @property
    def route(self) -> Route:
        return self.match.route


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: a JSON body, and the names of ignored parameters."""

    body: dict[str, Any]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed answer. Each item of `events` is one or more whole server-sent events.

    To cancel the generation, call `aclose` on the iterator or cancel the task that reads it.
    """

    events: AsyncIterator[bytes]
    ignored: tuple[str, ...] = ()


async def close_events(events: AsyncIterator[bytes]) -> None:
    """Close the events of a stream, which cancels the generation unless it has ended."""
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()
