"""The real worker with two special words in a job: one kills its process, one makes the decode never return."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from worker_gguf.cli import main
from worker_gguf.engine.batch import Batch, StepResult
from worker_gguf.queue import sdk
from worker_gguf.service.request import Answer, Request, Stream
from worker_gguf.worker import Worker

__all__ = ["HANG", "POISON"]

POISON = "poison-4b1f"
HANG = "hang-77ac"


class Odd:
    """The worker as the queue front end sees it."""

    def __init__(self, worker: Worker, wedge: threading.Event) -> None:
        self._worker = worker
        self._wedge = wedge

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    async def answer(self, request: Request) -> Answer | Stream:
        if POISON in repr(request.body):
            os.kill(os.getpid(), signal.SIGKILL)
        if HANG in repr(request.body):
            self._wedge.set()
        return await self._worker.answer(request)


def run() -> int:
    from worker_gguf.llama.runner import LlamaRunner

    wedge = threading.Event()
    real_run, real_queue = LlamaRunner.run, sdk.run_queue

    def run_or_hang(self: LlamaRunner, batch: Batch) -> StepResult:
        if wedge.is_set():
            threading.Event().wait()
        return real_run(self, batch)

    def run_queue(backend: Worker, *args: Any, **kwargs: Any) -> None:
        real_queue(Odd(backend, wedge), *args, **kwargs)

    LlamaRunner.run = run_or_hang  # type: ignore[method-assign]
    sdk.run_queue = run_queue  # type: ignore[assignment]
    return main(["serve"])


if __name__ == "__main__":
    sys.exit(run())
