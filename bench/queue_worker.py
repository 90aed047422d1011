"""The real worker, which also prints when a job reaches the queue front end. For `bench.queue`."""

import sys
import time
from typing import Any

from worker_gguf.cli import main
from worker_gguf.queue import sdk
from worker_gguf.service.request import Answer, Request, Stream
from worker_gguf.worker import Worker

PICKED = "picked-up"


class Watched:
    """The worker as the queue front end sees it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    async def answer(self, request: Request) -> Answer | Stream:
        picked_s = time.monotonic()  # the same clock in all processes of this machine
        result = await self._worker.answer(request)
        print(PICKED, request.account.request_id, picked_s, file=sys.stderr, flush=True)
        return result


def run() -> int:
    run_queue = sdk.run_queue

    def run_watched(backend: Worker, *args: Any, **kwargs: Any) -> None:
        run_queue(Watched(backend), *args, **kwargs)

    sdk.run_queue = run_watched  # type: ignore[assignment]
    return main(["serve"])


if __name__ == "__main__":
    sys.exit(run())
