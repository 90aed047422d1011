"""Runs RunPod's SDK with the handler: starts it when the worker is ready, and stops it without losing running jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from worker_gguf import interpreter
from worker_gguf.observe.metrics import Metrics
from worker_gguf.queue.batch_job import BatchLimits
from worker_gguf.queue.fitness import checks_of, leave_out_the_sdks_checks, register_checks
from worker_gguf.queue.handler import make_handler
from worker_gguf.queue.outages import patient_sdk
from worker_gguf.service.backend import Backend

if TYPE_CHECKING:
    from worker_gguf.observe.telemetry import Telemetry

__all__ = ["import_sdk", "run_queue"]

logger = logging.getLogger(__name__)

POLL_GRACE_S = 3.0
_LOOK_AGAIN_S = 0.05
_PARENT_LOOK_S = 0.5


def import_sdk() -> Any:
    """Import the SDK. This takes seconds and can be done in a thread while the model loads.

    By default, the SDK logs every yield, which is the content of prompts and answers. So its log level is set to
    warnings, which name only jobs and URLs.
    """
    leave_out_the_sdks_checks()
    import runpod
    from runpod.serverless.modules.rp_logger import RunPodLogger

    RunPodLogger().set_level("WARN")
    return runpod


def run_queue(
    backend: Backend,
    metrics: Metrics,
    *,
    concurrency: int,
    drain_timeout_s: float,
    batch_limits: BatchLimits,
    telemetry: Telemetry | None = None,
) -> None:
    """Wait until the backend is ready, then take jobs until SIGTERM or SIGINT. Call it in the main thread.

    The SDK runs its own event loop; the backend can be called from any loop. Raises the error that stopped the start.
    """
    asyncio.run(backend.wait_ready())
    sdk = import_sdk()
    register_checks(sdk, checks_of(backend.health()))
    patient_sdk()
    # The SDK would parse the command line for its flags, for example --rp_log_level=DEBUG. Ours is already parsed.
    sys.argv = sys.argv[:1]
    os.register_at_fork(after_in_child=_follow_parent)
    interpreter.for_the_sdk()
    config = {
        "handler": make_handler(backend, metrics, batch_limits, telemetry, _post_progress),
        "concurrency_modifier": _JobControl(backend, concurrency, drain_timeout_s).n_jobs,
        "return_aggregate_stream": True,
    }
    logger.info("taking jobs", extra={"concurrency": concurrency})
    with contextlib.suppress(asyncio.CancelledError):  # `_JobControl` ends the SDK's loop with it
        sdk.serverless.start(config)
    asyncio.run(backend.drain())


async def _post_progress(job_id: str, progress: dict[str, Any]) -> None:
    """Post the progress of a job as the SDK's `progress_update` does, which would not wait for the post."""
    from runpod.http_client import AsyncClientSession
    from runpod.serverless.modules.rp_http import send_result

    async with AsyncClientSession() as session:
        await send_result(session, {"status": "IN_PROGRESS", "output": progress}, {"id": job_id})


def _follow_parent() -> None:
    """Make the process that the SDK forks for its pings end when this process is killed.

    Otherwise it would continue to send pings for the jobs that were running, and the platform would not give the jobs
    to another worker.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_LOOK_S)
        os._exit(0)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


class _JobControl:
    """Sets the number of jobs that the SDK runs at the same time, and shuts the SDK down after SIGTERM or SIGINT.

    By default, the SDK finishes running jobs without a deadline and exits only after its long poll has returned, which
    takes up to 90 s. A job that this poll returns after the last running job has ended is never run. So the SDK's
    signal handlers are replaced. After a signal:

    - no new poll is started; the current one may still return jobs, which are run;
    - the loop ends when no job is left and either no poll is running or POLL_GRACE_S are over;
    - at the deadline, or at a second signal, the loop ends in any case. The jobs that still run are not answered, so
      the platform gives them to another worker.

    A backend that fails has the same effect as a signal.
    """

    def __init__(self, backend: Backend, concurrency: int, drain_timeout_s: float) -> None:
        self._backend = backend
        self._concurrency = concurrency
        self._drain_timeout_s = drain_timeout_s
        self._leaving = asyncio.Event()
        self._hurry = asyncio.Event()
        self._is_between_polls = False
        self._watchers: list[asyncio.Task[None]] = []

    def n_jobs(self, _current: int) -> int:
        """Return the number of jobs to run. The SDK calls it in its loop before each poll (`concurrency_modifier`)."""
        if not self._watchers:
            self._watch()
        if not self._leaving.is_set():
            # The number must not change: when it does, the SDK waits until no job is running before it takes another.
            return self._concurrency
        self._is_between_polls = True
        if n_running := _n_running():
            # With exactly this number, jobs in the SDK's internal queue still start, and the SDK does not poll.
            return n_running
        raise asyncio.CancelledError  # ends the task that polls, and with it the SDK's loop

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        sdk_tasks = asyncio.all_tasks(loop)
        self._watchers = [loop.create_task(self._leave(sdk_tasks)), loop.create_task(self._watch_backend())]
        for number in (signal.SIGTERM, signal.SIGINT):
            # Only the main thread may set signal handlers. Other threads receive no signals.
            with contextlib.suppress(ValueError, RuntimeError):
                loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._leaving.is_set():
            self._hurry.set()
        self._leaving.set()

    async def _watch_backend(self) -> None:
        """When the backend fails, report it to the platform like a failed fitness check of the SDK, and shut down."""
        from runpod.serverless.modules.rp_fitness import _report_unhealthy

        while self._backend.status() != "failed":  # noqa: ASYNC110 - the status changes in another thread
            await asyncio.sleep(_LOOK_AGAIN_S * 5)
        self._leaving.set()
        reason = str(self._backend.health().get("error", {}).get("message", "The worker has failed."))
        await asyncio.to_thread(_report_unhealthy, "engine", reason)

    async def _leave(self, sdk_tasks: set[asyncio.Task[Any]]) -> None:
        await self._leaving.wait()
        logger.info("draining", extra={"jobs": _n_running(), "seconds": self._drain_timeout_s})
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        deadline_s, grace_s = now_s + self._drain_timeout_s, now_s + POLL_GRACE_S
        while (now_s := loop.time()) < deadline_s and not self._hurry.is_set():
            if not _n_running() and (self._is_between_polls or now_s >= grace_s):
                break
            await asyncio.sleep(_LOOK_AGAIN_S)
        if left := _n_running():
            logger.warning("cut off: the platform gives what still runs to another worker", extra={"jobs": left})
        for task in sdk_tasks:
            task.cancel()


def _n_running() -> int:
    """Return the number of jobs that the SDK has taken and not yet answered."""
    from runpod.serverless.modules.worker_state import JobsProgress

    return int(JobsProgress().get_job_count())
