"""One request, straight through: validate, template, submit, render. Both front ends use it.

Knows nothing of FastAPI, uvicorn or the RunPod SDK.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Answer", "Stream"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: an HTTP status, a JSON body, headers to add."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed answer. Each item of `events` is one or more whole server-sent events.

    Closing the iterator (`aclose`) cancels the generation; so does cancelling the task that reads it.
    """

    events: AsyncIterator[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)
