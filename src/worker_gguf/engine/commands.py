"""What is asked of the engine's thread, through its inbox."""

from __future__ import annotations

from dataclasses import dataclass

from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.stream import EventStream
from worker_gguf.errors import WorkerError

__all__ = ["Add", "Address", "Cancel", "Command", "CutOff", "Stop"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a request's events go: a stream, and the request's place in its group."""

    stream: EventStream
    index: int


@dataclass(frozen=True, slots=True)
class Add:
    request: GenerationRequest
    address: Address


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class CutOff:
    """Ends every request with an error."""

    error: WorkerError


class Stop:
    """Ends the thread."""


Command = Add | Cancel | CutOff | Stop
