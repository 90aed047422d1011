"""The addresses that the SDK in a worker talks to (rp_job.py, rp_http.py and rp_ping.py of runpod 1.12)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from worker_gguf.emulator.jobs import Board, Job, Signal

__all__ = ["WorkerSide"]

T = TypeVar("T")


class WorkerSide:
    """`hold_s` is how long a poll is held open with nothing to say; `post_delay_s` makes each post take that long."""

    def __init__(self, board: Board, *, hold_s: float, post_delay_s: float) -> None:
        self._board = board
        self._hold_s = hold_s
        self._post_delay_s = post_delay_s

    def routes(self, prefix: str) -> list[BaseRoute]:
        return [
            Route(f"{prefix}/job-take/{{worker}}", self._take),
            Route(f"{prefix}/job-take-batch/{{worker}}", self._take_batch),
            Route(f"{prefix}/job-stop/{{worker}}", self._stop),
            Route(f"{prefix}/job-stream/{{worker}}/{{job}}", self._stream, methods=["POST"]),
            Route(f"{prefix}/job-done/{{worker}}/{{job}}", self._done, methods=["POST"]),
            Route(f"{prefix}/ping/{{worker}}", self._ping),
        ]

    async def _take(self, request: Request) -> Response:
        jobs = await self._wait_for_jobs(request, 1)
        return JSONResponse(_handed_out(jobs[0])) if jobs else Response(status_code=204)

    async def _take_batch(self, request: Request) -> Response:
        wanted = request.query_params.get("batch_size", "1")
        jobs = await self._wait_for_jobs(request, int(wanted) if wanted.isdecimal() else 1)
        return JSONResponse([_handed_out(job) for job in jobs]) if jobs else Response(status_code=204)

    async def _wait_for_jobs(self, request: Request, n_jobs: int) -> list[Job]:
        worker = request.path_params["worker"]
        return await self._hold(request, self._board.queued, lambda: self._board.take(worker, n_jobs))

    async def _stop(self, request: Request) -> Response:
        worker = request.path_params["worker"]
        stops = await self._hold(request, self._board.stopped, lambda: self._board.take_stops(worker))
        return JSONResponse({"jobsToStop": stops}) if stops else Response(status_code=204)

    async def _hold(self, request: Request, signal: Signal, take: Callable[[], list[T]]) -> list[T]:
        """Hold a poll open until there is something to say. Nothing is said to a worker that hung up."""
        deadline_s = time.monotonic() + self._hold_s
        while not await request.is_disconnected() and not self._board.is_closed:
            if taken := take():
                return taken
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                break
            await signal.wait(left_s)
        return []

    async def _stream(self, request: Request) -> Response:
        return await self._posted(request, is_last=False)

    async def _done(self, request: Request) -> Response:
        return await self._posted(request, is_last=True)

    async def _posted(self, request: Request, *, is_last: bool) -> Response:
        job = self._board.jobs.get(request.path_params["job"])
        # The SDK calls its JSON a form (rp_http.py), so the Content-Type says nothing.
        body = json.loads(await request.body())
        await asyncio.sleep(self._post_delay_s)
        if job is None:
            return JSONResponse({"error": "no such job"}, status_code=404)
        if is_last:
            self._board.finish(job, body)
        else:
            self._board.append(job, body)
        return JSONResponse({"status": "ok"})

    async def _ping(self, request: Request) -> Response:
        held = request.query_params.get("job_id", "")
        self._board.pings[request.path_params["worker"]] = [job for job in held.split(",") if job]
        return JSONResponse({"status": "ok"})


def _handed_out(job: Job) -> dict[str, object]:
    return {"id": job.id, "input": job.input}
