"""Keeps the worker going while the platform is unreachable or answers nonsense.

The behaviour of runpod 1.12, read from its source and seen against the emulator:

- A post that fails is tried three times within about 3 s, then dropped with a log line. So an outage of 4 s loses an
  answer, or a piece in the middle of a stream.
- A poll that is refused, or answered with 400, 500 or an empty page, is repeated without a pause: thousands of polls
  and log lines a second, on the processor that computes.
- A job without an id ends the loop that runs jobs, and the worker with it.

The SDK reads its hooks for both (`jobs_fetcher`, `jobs_handler`) only in local tests (rp_scale.py), so this module
wraps two of its functions. The original functions still do the work.
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
"""Seconds for which a post is repeated: RunPod's default limit for a job."""
PAUSES_S = (0.5, 5.0)
"""The first and the longest pause, less a random part so that a fleet does not come back at once."""
_FAST_POLL_S = 0.1
"""A poll that brings nothing sooner than this was not held open."""
_FAST_POLL_PAUSE_S = 0.25


def patient_sdk() -> None:
    """Wrap the two functions of the SDK. Call it once."""
    from runpod.serverless.modules import rp_http, rp_scale
    from runpod.serverless.modules.worker_state import JobsProgress

    if not hasattr(rp_scale.get_job, "__wrapped__"):
        rp_scale.get_job = patient_fetch(rp_scale.get_job, lambda job_id: JobsProgress().get(job_id) is not None)
        rp_http._transmit = patient_post(rp_http._transmit)  # noqa: SLF001 - the one place that all posts go through


def patient_fetch(fetch: Fetch, is_running: Callable[[str], bool], pauses_s: Pauses = PAUSES_S) -> Fetch:
    """Wrap the SDK's poll. It pauses after a failed poll, and returns only jobs that can run and are not running
    already.
    """
    pauses = _Waiting("jobs", pauses_s)

    async def fetch_patiently(session: Any, num_jobs: int = 1) -> list[Job] | None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        try:
            given = await fetch(session, num_jobs)
        except Exception as error:
            if _status(error) == 429:
                raise  # the SDK itself waits 5 s
            await pauses.after(error)
            return None
        if given:
            pauses.over()
            return [job for job in given if _can_run(job, is_running)]
        pauses.over()
        if loop.time() - begun_s < _FAST_POLL_S:
            await asyncio.sleep(_FAST_POLL_PAUSE_S)
        return None

    fetch_patiently.__wrapped__ = fetch  # type: ignore[attr-defined]
    return fetch_patiently


def patient_post(post: Post, for_s: float = POST_FOR_S, pauses_s: Pauses = PAUSES_S) -> Post:
    """Wrap the SDK's post so that it is repeated during an outage. A 4xx is final."""

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
    """Pauses that grow while something fails. Logs one line at the first failure and one at the end."""

    def __init__(self, what: str, pauses_s: Pauses) -> None:
        self._what = what
        self._pauses_s = pauses_s
        self._n = 0

    async def after(self, error: Exception) -> None:
        least_s, most_s = self._pauses_s
        self._n += 1
        if self._n == 1:
            # Only the type is logged: the message may contain the platform's address, which contains a key.
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
        # The platform sent the job again because pings were late. The current run answers it.
        logger.warning("the platform handed out a job that runs here already", extra={"job_id": job_id})
        return False
    return True


def _may_pass(error: Exception) -> bool:
    """Return whether the same post may succeed later: after a fault of the network or the server, not of the post."""
    from aiohttp import ClientError

    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    return isinstance(error, ClientError | OSError | TimeoutError)


def _status(error: Exception) -> int | None:
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None
