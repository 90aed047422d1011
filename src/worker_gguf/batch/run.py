"""Runs the requests of a batch: keeps the worker's slots busy, and yields each result as soon as it is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

from worker_gguf.batch.agenda import Agenda, Attempt
from worker_gguf.batch.dispatch import Dispatch, Result
from worker_gguf.batch.lines import Line
from worker_gguf.errors import BatchError

__all__ = ["run_batch", "width_for"]


def width_for(n_parallel: int) -> int:
    """Return how many requests are sent at once: one for each slot, and one more that waits for it.

    So a slot is never without work. More requests in the queue would only wait longer, and their time counts against
    REQUEST_TIMEOUT_S.
    """
    return 2 * n_parallel


async def run_batch(
    lines: Iterator[Line],
    dispatch: Dispatch,
    *,
    width: int,
    deaths_within_s: float = 60.0,
    stop: asyncio.Event | None = None,
) -> AsyncGenerator[Result, None]:
    """Yield the result of each line, in the order in which the answers are complete.

    After `stop`, no more requests are sent, and the running ones are finished. Closing the generator cancels them.
    Raises BatchError if the worker has failed for good; the requests that it had then have no result.
    """
    run = _Run(Agenda(lines, width, deaths_within_s), dispatch, stop or asyncio.Event())
    try:
        while await run.step():
            for result in run.take():
                yield result
    finally:
        await run.close()


class _Run:
    """The running attempts of one batch."""

    def __init__(self, agenda: Agenda, dispatch: Dispatch, stop: asyncio.Event) -> None:
        self._agenda = agenda
        self._dispatch = dispatch
        self._stop = stop
        self._stopping = asyncio.create_task(stop.wait())
        self._running: dict[asyncio.Task[Result], Attempt] = {}
        self._failure: BatchError | None = None

    async def step(self) -> bool:
        """Send the requests that may be sent, and wait for a result. Returns False if there is nothing more to do.

        Raises BatchError if the worker has failed for good.
        """
        if self._failure is not None:
            raise self._failure
        now_s = asyncio.get_running_loop().time()
        while not self._stop.is_set() and (attempt := self._agenda.next(now_s)) is not None:
            self._running[asyncio.create_task(self._dispatch.answer(attempt.line))] = attempt
        timeout_s = None if self._stop.is_set() else self._agenda.wait_s(now_s)
        if not self._running and timeout_s is None:
            return False
        waited: set[asyncio.Task[Result] | asyncio.Task[bool]] = {*self._running}
        if not self._stop.is_set():
            waited.add(self._stopping)
        await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return True

    def take(self) -> list[Result]:
        """Return the results that are there. Requests that are tried again have none."""
        now_s = asyncio.get_running_loop().time()
        results = []
        for task in [task for task in self._running if task.done()]:
            attempt, result = self._running.pop(task), task.result()
            if result.error is not None and result.error.retryable and self._has_failed():
                continue
            if self._agenda.ended(attempt, result.error, now_s):
                results.append(result)
        return results

    async def close(self) -> None:
        tasks = {self._stopping, *self._running}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    def _has_failed(self) -> bool:
        """Return whether the worker can answer no more requests. Each of them would get the same error."""
        backend = self._dispatch.backend
        if backend.status() in ("failed", "stopped"):
            why = backend.health().get("error", {}).get("message", "The worker was stopped.")
            self._failure = BatchError(
                f"The worker can answer no more requests: {why} Requests without a result can be sent again."
            )
        return self._failure is not None
