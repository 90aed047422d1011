"""The part of the worker that the HTTP and queue interfaces use. `worker_gguf.worker.Worker` implements it."""

from __future__ import annotations

from typing import Any, Protocol

from worker_gguf.observe.status import Status
from worker_gguf.service.request import Answer, Request, Stream

__all__ = ["Backend"]


class Backend(Protocol):
    """Its methods can be called in any thread with a running event loop, and do not block the loop."""

    def status(self) -> Status: ...

    def health(self) -> dict[str, Any]:
        """Return the JSON of /health. It is public: it must not contain keys, tokens or prompts."""
        ...

    async def answer(self, request: Request) -> Answer | Stream:
        """Answer one request. Raises the WorkerError that refuses it.

        To cancel the generation, cancel the awaiting task, or call `aclose()` on the events of the stream. This works
        even before their first item.
        """
        ...

    async def wait_ready(self) -> None:
        """Return when the start is over. Raises the WorkerError that stopped the start."""
        ...

    async def drain(self) -> None:
        """Refuse new requests, and return when all running requests have ended."""
        ...
