"""Makes the SDK wait and retry when the platform cannot be reached or answers with errors.

runpod 1.12, by its source and in tests against the emulator:

- It tries a failed post three times within about 3 s and then drops it with a log line. So an outage of 4 s loses an
  answer, or an event in the middle of a stream.
- If a poll is refused, or answered with 400, 500 or an empty page, it polls again immediately. That is thousands of
  polls and log lines per second, on the processor that computes.
- A job without an id ends the loop that runs jobs, and so the worker.

The SDK uses its hooks `jobs_fetcher` and `jobs_handler` in local tests only (rp_scale.py). So this module replaces two
functions of the SDK with wrappers, which call the original functions.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["patient_fetch", "patient_post", "patient_sdk"]

logger = logging.getLogger(__name__)

Job = dict[str, Any]
Fetch = Callable[[Any, int], Coroutine[Any, Any, list[Job] | None]]
Post = Callable[[Any, str, str], Coroutine[Any, Any, None]]
Pauses = tuple[float, float]

POST_FOR_S = 600.0
"""Seconds for which a post is repeated. Equal to RunPod's default time limit of a job."""
PAUSES_S = (0.5, 5.0)
"""The first and the longest pause. Up to half of a pause is randomly left out, so that not all workers retry at the
same moment."""
_FAST_POLL_S = 0.1
"""If a poll returns no job in less time, the platform did not hold it open."""
_FAST_POLL_PAUSE_S = 0.25


def patient_sdk() -> None:
    """Wrap the SDK's poll and post. Further calls do nothing."""
    from runpod.serverless.modules import rp_http, rp_scale
    from runpod.serverless.modules.worker_state import JobsProgress

    if not hasattr(rp_scale.get_job, "__wrapped__"):
        rp_scale.get_job = patient_fetch(rp_scale.get_job, lambda job_id: JobsProgress().get(job_id) is not None)
        rp_http._transmit = patient_post(rp_http._transmit)  # noqa: SLF001 - the one place that all posts go through


def patient_fetch(fetch: Fetch, is_running: Callable[[str], bool], pauses_s: Pauses = PAUSES_S) -> Fetch:
    """Wrap the SDK's poll. The wrapper waits after a failed poll.

    It returns only jobs that have an id and are not running in this worker already.
    """
    pauses = _Waiting("jobs", pauses_s)

    async def fetch_patiently(session: Any, num_jobs: int = 1) -> list[Job] | None:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        try:
            jobs = await fetch(session, num_jobs)
        except Exception as error:
            if _status(error) == 429:
                raise  # the SDK waits 5 s after this status
            await pauses.after(error)
            return None
        pauses.over()
        if runnable := [job for job in jobs or () if _can_run(job, is_running)]:
            return runnable
        if loop.time() - started_s < _FAST_POLL_S:
            await asyncio.sleep(_FAST_POLL_PAUSE_S)
        return None

    fetch_patiently.__wrapped__ = fetch  # type: ignore[attr-defined]
    return fetch_patiently


def patient_post(post: Post, for_s: float = POST_FOR_S, pauses_s: Pauses = PAUSES_S) -> Post:
    """Wrap the SDK's post so that it is repeated for `for_s` seconds during an outage.

    The last error is raised. A 4xx is raised immediately, except 408 and 429.
    """

    async def post_patiently(session: Any, url: str, data: str) -> None:
        pauses = _Waiting("post", pauses_s)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + for_s
        while True:
            try:
                await post(session, url, data)
            except Exception as error:
                if not _may_pass(error) or loop.time() > deadline_s:
                    raise
                await pauses.after(error)
            else:
                pauses.over()
                return

    return post_patiently


class _Waiting:
    """Waits after failures, longer each time. Logs one line at the first failure and one at the next success."""

    def __init__(self, what: str, pauses_s: Pauses) -> None:
        self._what = what
        self._pauses_s = pauses_s
        self._n = 0

    async def after(self, error: Exception) -> None:
        least_s, most_s = self._pauses_s
        self._n += 1
        if self._n == 1:
            # Log only the type of the error: its message may have the URL of the platform, which contains a key.
            logger.warning(
                "the platform is away",
                extra={"what": self._what, "error": type(error).__name__, "status": _status(error)},
            )
        pause_s = min(most_s, least_s * 2 ** min(self._n - 1, 10))
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    def over(self) -> None:
        if self._n:
            logger.info("the platform is back", extra={"what": self._what, "tries": self._n})
        self._n = 0


def _can_run(job: object, is_running: Callable[[str], bool]) -> bool:
    job_id = job.get("id") if isinstance(job, dict) else None
    if not isinstance(job_id, str) or not job_id:
        logger.warning("the platform handed out a job without an id, it is left alone")
        return False
    if is_running(job_id):
        # The platform sends a job again when pings were late. The running job will answer it.
        logger.warning("the platform handed out a job that runs here already", extra={"job_id": job_id})
        return False
    return True


def _may_pass(error: Exception) -> bool:
    """Return whether the same post may succeed later: after errors of the network or the server."""
    from aiohttp import ClientError

    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    return isinstance(error, ClientError | OSError | TimeoutError)


def _status(error: Exception) -> int | None:
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None
