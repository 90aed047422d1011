"""The commands that other threads send to the engine's thread, and the address for a request's events."""

from __future__ import annotations

from dataclasses import dataclass

from worker_gguf.engine.progress import Progress
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.stream import EventStream
from worker_gguf.errors import WorkerError

__all__ = ["Add", "Address", "Cancel", "Command", "CutOff", "Stop"]


@dataclass(frozen=True, slots=True)
class Address:
    """The destination of a request's events: a stream, and the index of the request in its group."""

    stream: EventStream
    index: int

    @property
    def progress(self) -> Progress:
        return self.stream.progress[self.index]


@dataclass(frozen=True, slots=True)
class Add:
    """Adds a request. The engine refuses it if it has no slot by `start_by_s`."""

    request: GenerationRequest
    address: Address
    start_by_s: float | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ends one request. Does nothing if it has ended already."""

    request_id: str


@dataclass(frozen=True, slots=True)
class CutOff:
    """Ends every request with an error."""

    error: WorkerError


class Stop:
    """Ends the thread."""


Command = Add | Cancel | CutOff | Stop
