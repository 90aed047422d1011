"""The real worker with two special words in a job: one kills its process, one makes the decode never return."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tests.hanging import process_of
from worker_gguf.cli import main
from worker_gguf.queue import sdk
from worker_gguf.service.request import Answer, Request, Stream
from worker_gguf.worker import Worker

__all__ = ["HANG", "POISON"]

POISON = "poison-4b1f"
HANG = "hang-77ac"


class Odd:
    """The worker as the queue front end sees it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    async def answer(self, request: Request) -> Answer | Stream:
        if POISON in repr(request.body):
            os.kill(os.getpid(), signal.SIGKILL)
        if HANG in repr(request.body):
            host = self._worker._host
            assert host is not None
            for engine in host.engines():
                os.kill(process_of(engine).pid, signal.SIGSTOP)
        return await self._worker.answer(request)


def run() -> int:
    real_queue = sdk.run_queue

    def run_queue(backend: Worker, *args: Any, **kwargs: Any) -> None:
        real_queue(Odd(backend), *args, **kwargs)

    sdk.run_queue = run_queue  # type: ignore[assignment]
    return main(["serve"])


if __name__ == "__main__":
    sys.exit(run())
