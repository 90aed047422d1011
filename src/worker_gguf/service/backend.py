"""The part of the worker that the doors use. `worker_gguf.worker.Worker` is the real one."""

from __future__ import annotations

from typing import Any, Protocol

from worker_gguf.observe.status import Status
from worker_gguf.service.request import Answer, Request, Stream

__all__ = ["Backend"]


class Backend(Protocol):
    """Every method may be called from any thread's running loop; none of them blocks it."""

    def status(self) -> Status: ...

    def health(self) -> dict[str, Any]:
        """Return the JSON of /health. It is public: no key, no token, no prompt."""
        ...

    async def answer(self, request: Request) -> Answer | Stream:
        """Answer one request, or raise a WorkerError.

        Cancelling the awaiting task, or `aclose()` of the stream's events even before their first item, cancels the
        generation.
        """
        ...

    async def wait_ready(self) -> None:
        """Return when ready; raise the WorkerError that stopped the start."""
        ...

    async def drain(self) -> None:
        """Finish what runs, take nothing new."""
        ...
