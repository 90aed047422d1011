"""The interface of a worker for HTTP and the queue. `worker_gguf.worker.Worker` implements it."""

from __future__ import annotations

from typing import Any, Protocol

from worker_gguf.observe.status import Status
from worker_gguf.service.request import Answer, Request, Stream

__all__ = ["Backend"]


class Backend(Protocol):
    """All methods can be called on the running event loop of any thread. None of them blocks it."""

    def status(self) -> Status: ...

    def health(self) -> dict[str, Any]:
        """Return the JSON of /health, which is public: without keys, tokens and prompts."""
        ...

    async def answer(self, request: Request) -> Answer | Stream:
        """Answer one request, or raise a WorkerError.

        The generation is cancelled if the awaiting task is cancelled, or if the stream's events are closed (`aclose`),
        even before their first item.
        """
        ...

    async def wait_ready(self) -> None:
        """Return when the worker is ready. Raises the WorkerError that stopped the start."""
        ...

    async def drain(self) -> None:
        """Accept no new requests, and return when all running ones have ended."""
        ...
