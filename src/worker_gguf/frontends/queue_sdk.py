"""RunPod's SDK around the handler: started when ready, silent about content, stopped without losing what runs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from worker_gguf.frontends.backend import Backend
from worker_gguf.frontends.queue import make_handler
from worker_gguf.log import get_logger
from worker_gguf.metrics import Metrics

__all__ = ["import_sdk", "run_queue"]

logger = get_logger(__name__)

_POLL_S = 0.05


def import_sdk() -> Any:
    """Import the SDK, which takes seconds: boot may call this in a thread beside the load of the model.

    Its own default is to log every yield, which is what users wrote and read, so its level is raised before it sees
    a job. Its errors are kept: they name jobs and addresses only.
    """
    import runpod
    from runpod.serverless.modules.rp_logger import RunPodLogger

    RunPodLogger().set_level("WARN")
    return runpod


def run_queue(backend: Backend, metrics: Metrics, *, concurrency: int, drain_timeout_s: float) -> None:
    """Take jobs until SIGTERM or SIGINT, the first one when the backend is ready. Call it in the main thread.

    The SDK runs an event loop of its own, which the backend allows for. Raises what stopped the start.
    """
    asyncio.run(backend.wait_ready())
    sdk = import_sdk()
    # The SDK parses the command line for flags of its own, --rp_log_level=DEBUG among them. Ours is read by now.
    sys.argv = sys.argv[:1]
    leaving = _Leaving(drain_timeout_s)

    def constant(_current: int) -> int:
        # Another number each time would make the SDK wait for an empty worker before it takes a job.
        leaving.watch()
        return concurrency

    config = {
        "handler": make_handler(backend, metrics),
        "concurrency_modifier": constant,
        "return_aggregate_stream": True,
    }
    logger.info("taking jobs", concurrency=concurrency)
    with contextlib.suppress(asyncio.CancelledError):  # how `_Leaving` ends the SDK's loop
        sdk.serverless.start(config)
    asyncio.run(backend.drain())


class _Leaving:
    """Ends the SDK's loop soon after a signal.

    The SDK stops taking jobs then and finishes those that run, but with no deadline, and only once its long polls
    (up to 90 s each) have returned; a job that such a poll brings in after the last one has finished is never run.
    So the loop is ended as soon as no job is left, or at the deadline.
    """

    def __init__(self, drain_timeout_s: float) -> None:
        self._drain_timeout_s = drain_timeout_s
        self._watcher: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Begin, within the SDK's loop and after the SDK has set its signal handlers. Once is enough."""
        if self._watcher is not None:
            return
        loop = asyncio.get_running_loop()
        signalled = asyncio.Event()
        others = asyncio.all_tasks(loop)
        self._watcher = loop.create_task(self._end(signalled, others))
        for number in (signal.SIGTERM, signal.SIGINT):
            theirs = signal.getsignal(number)
            with contextlib.suppress(ValueError):  # only the main thread may; elsewhere nobody signals
                signal.signal(number, _both(theirs, lambda: loop.call_soon_threadsafe(signalled.set)))

    async def _end(self, signalled: asyncio.Event, sdk_tasks: set[asyncio.Task[Any]]) -> None:
        from runpod.serverless.modules.worker_state import JobsProgress

        await signalled.wait()
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._drain_timeout_s
        while JobsProgress().get_job_count() and loop.time() < deadline_s:  # noqa: ASYNC110 - the SDK has no event
            await asyncio.sleep(_POLL_S)
        if left := JobsProgress().get_job_count():
            logger.warning("drain timed out", seconds=self._drain_timeout_s, jobs=left)
        for task in sdk_tasks:
            task.cancel()


def _both(theirs: Any, ours: Callable[[], object]) -> Callable[[int, FrameType | None], None]:
    def on_signal(number: int, frame: FrameType | None) -> None:
        if callable(theirs):
            theirs(number, frame)
        ours()

    return on_signal
