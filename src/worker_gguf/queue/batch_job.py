"""Jobs with many requests: a list, or the URL of a file, in OpenAI's batch format.

The job yields lines of JSON, one for each request, as the answers come; joined, they are the file of results. A yield
has many lines, and it is text: the SDK would fail the job if it yielded a dict that has an error. While the job runs,
its status shows the progress.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, aclosing
from typing import Any, Final

from msgspec import Struct

from worker_gguf.batch.dispatch import Dispatch, Result, error_result
from worker_gguf.batch.lines import Line, lines_of_list, read_lines
from worker_gguf.batch.run import run_batch
from worker_gguf.batch.tally import Tally
from worker_gguf.errors import BatchError
from worker_gguf.protocol.dialect import Dialect
from worker_gguf.protocol.openai.errors import OPENAI
from worker_gguf.queue.job_input import BatchCall

__all__ = ["BATCH_DIALECT", "BatchJobs", "BatchLimits", "PostProgress"]

logger = logging.getLogger(__name__)

PostProgress = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Posts the progress of a job, which has this id."""

_SETTLE_S: Final = 5.0
_SENDING_SHARE: Final = 0.85
"""Requests are sent until this share of the output is expected to be full, as answers may be larger than the mean."""
_MOST_FILE_BYTES: Final = 200 << 20
"""As for a file of OpenAI's batches."""

BATCH_DIALECT: Final = Dialect("batch", OPENAI.body, lambda wording: error_result(wording.error))


class BatchLimits(Struct, frozen=True):
    """`width` requests of a job run or wait in the engine at once. A line has at most `most_line_bytes`.

    `deaths_within_s` is ENGINE_DEATHS_WITHIN_S.
    """

    width: int
    most_line_bytes: int = 32 << 20
    deaths_within_s: float = 60.0
    may_be_private: bool = False
    """A URL may lead to addresses that are not public."""
    most_output_bytes: int = 9_500_000
    """The job yields no results over this limit: RunPod takes at most 10 MB for a job, and loses a larger result."""
    progress_every_s: float = 5.0


class BatchJobs:
    """Answers jobs with many requests."""

    def __init__(self, dispatch: Dispatch, limits: BatchLimits, post_progress: PostProgress | None = None) -> None:
        self._dispatch = dispatch
        self._limits = limits
        self._post_progress = post_progress

    async def results(self, call: BatchCall, job_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the results. Raises the WorkerError that refuses the job, before the first line.

        Closing the generator cancels the requests.
        """
        limits = self._limits
        with ExitStack() as stack:
            lines, n_requests = await self._open(call, stack)
            tally = Tally(n_requests, 0, asyncio.get_running_loop().time())
            output = _Output(lines, limits.most_output_bytes)
            run = run_batch(output.sent(), self._dispatch, width=limits.width, deaths_within_s=limits.deaths_within_s)
            progress = _Progress(tally, job_id, self._post_progress, limits.progress_every_s)
            try:
                async with aclosing(run) as results:
                    async for result in results:
                        if not output.add(result):
                            continue
                        tally.add(result)
                        progress.show()
                        yield result.content
                await progress.settle()
            finally:
                progress.cancel()
            if (what := output.left_out(n_requests)) is not None:
                yield error_result(BatchError(what))

    async def _open(self, call: BatchCall, stack: ExitStack) -> tuple[Iterable[Line], int]:
        """Return the lines and their number. A file is closed with the stack."""
        most_bytes = self._limits.most_line_bytes
        if not isinstance(call.requests, str):
            return lines_of_list(call.requests, most_bytes), len(call.requests)
        from worker_gguf.store.public_file import fetch_public_file  # httpx would add 0.1 s to every start of a queue

        may_be_private = self._limits.may_be_private
        file = await fetch_public_file(call.requests, most_bytes=_MOST_FILE_BYTES, may_be_private=may_be_private)
        stack.callback(file.close)
        n_requests = await asyncio.to_thread(lambda: sum(1 for _ in read_lines(file, most_bytes)))
        return read_lines(file, most_bytes), n_requests


class _Output:
    """Keeps the results of a job within the limit: sends lines as long as their results are expected to have room."""

    def __init__(self, lines: Iterable[Line], most_bytes: int) -> None:
        self._lines = lines
        self._most_bytes = most_bytes
        self._n_sent = self._n_results = self._n_bytes = 0
        self._without_room: list[Line] = []
        self._first_unsent: Line | None = None

    def sent(self) -> Iterator[Line]:
        for line in self._lines:
            if self._is_full:
                self._first_unsent = line
                return
            self._n_sent += 1
            yield line

    def add(self, result: Result) -> bool:
        """Count a result. Returns False if it has no room; then no more lines are sent."""
        content = result.content
        # The SDK puts the texts into JSON once more, which writes these three with a backslash.
        n_bytes = len(content) + sum(map(content.count, (b'"', b"\\", b"\n")))
        self._n_results += 1
        if self._n_bytes + n_bytes > self._most_bytes:
            self._without_room.append(result.line)
            return False
        self._n_bytes += n_bytes
        return True

    def left_out(self, n_requests: int) -> str | None:
        """Return which of the requests have no result in the output, as a sentence for the client, or None."""
        what = []
        if self._without_room:
            names = ", ".join(line.name for line in sorted(self._without_room, key=lambda line: line.number))
            what.append(f"the results of these requests were dropped: {names}")
        if (line := self._first_unsent) is not None:
            n_unsent = n_requests - line.number + 1
            what.append(f"{line.name} and all later requests ({n_unsent} of {n_requests}) were not sent")
        if not what:
            return None
        limit = f"The results of a job may have {self._most_bytes / 1e6:g} MB"
        return f"{limit}. So {', and '.join(what)}. Send them as another job."

    @property
    def _is_full(self) -> bool:
        """Running requests have room, too, if their results have the mean size of the others."""
        n_running = self._n_sent - self._n_results
        expected_bytes = self._n_bytes + n_running * self._n_bytes / max(1, self._n_results)
        return bool(self._without_room) or expected_bytes >= _SENDING_SHARE * self._most_bytes


class _Progress:
    """Posts the progress of a job every few seconds, one post at a time."""

    def __init__(self, tally: Tally, job_id: str, post: PostProgress | None, every_s: float) -> None:
        self._tally = tally
        self._job_id = job_id
        self._post = post
        self._every_s = every_s
        self._posting: asyncio.Task[None] | None = None
        self._posted_s = tally.started_s

    def show(self) -> None:
        now_s = asyncio.get_running_loop().time()
        is_idle = self._posting is None or self._posting.done()
        if self._post is not None and is_idle and now_s - self._posted_s >= self._every_s:
            self._posted_s = now_s
            self._posting = asyncio.ensure_future(self._send(self._post, self._state(now_s)))

    async def settle(self) -> None:
        """Wait for the last post: if it arrived after the job's result, it could take the place of the result."""
        if self._posting is not None:
            await asyncio.wait({self._posting}, timeout=_SETTLE_S)

    def cancel(self) -> None:
        if self._posting is not None:
            self._posting.cancel()

    async def _send(self, post: PostProgress, state: dict[str, Any]) -> None:
        try:
            await post(self._job_id, state)
        except Exception as error:  # noqa: BLE001 - a lost progress post must not end the job
            logger.warning("the progress could not be posted", extra={"error": type(error).__name__})

    def _state(self, now_s: float) -> dict[str, Any]:
        tally = self._tally
        left_s = tally.seconds_left(now_s)
        return {
            "requests": tally.n_requests,
            "answered": tally.n_done,
            "errors": tally.n_failed,
            "completion_tokens": tally.n_tokens,
            "seconds_left": None if left_s is None else round(left_s),
        }
