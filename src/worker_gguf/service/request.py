"""A request as a door hands it to the service, and the answer it gets back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from worker_gguf.observe.account import Account
from worker_gguf.protocol.routes import Match, Route

__all__ = ["Answer", "Request", "Stream", "close_events"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `body` is parsed JSON, or None where there is none. Times and counts go into `account`."""

    match: Match
    body: object
    account: Account

    @property
    def route(self) -> Route:
        return self.match.route


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: a JSON body, and the names of the parameters that changed nothing."""

    body: dict[str, Any]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed answer. Each item of `events` is one or more whole server-sent events.

    Closing the iterator (`aclose`) cancels the generation, and so does cancelling the task that reads it.
    """

    events: AsyncIterator[bytes]
    ignored: tuple[str, ...] = ()


async def close_events(events: AsyncIterator[bytes]) -> None:
    """Close the events of a stream. This cancels the generation unless it has ended."""
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()
