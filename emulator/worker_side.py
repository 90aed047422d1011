"""The addresses that the SDK in a worker talks to (rp_job.py, rp_http.py and rp_ping.py of runpod 1.12)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from emulator.board import Board
from emulator.body import BadRequest, read_json
from emulator.jobs import Job, Signal

__all__ = ["WorkerSide"]

T = TypeVar("T")


class WorkerSide:
    """Asks for no key, as all of the stand-in."""

    def __init__(self, board: Board) -> None:
        self._board = board

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
        """Hold a poll open until there is an answer. A worker that hung up gets none."""
        deadline_s = time.monotonic() + self._board.rules.hold_s
        while not await request.is_disconnected() and not self._board.is_closed:
            self._board.sweep()
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
        board, worker = self._board, request.path_params["worker"]
        job = board.jobs.get(request.path_params["job"])
        try:
            # The SDK sends its JSON as a form (rp_http.py), so the Content-Type is ignored.
            body = await read_json(request, board.rules.max_sync_bytes)
        except BadRequest as error:
            if job is not None and is_last:
                board.finish(worker, job, {"error": f"The platform refused the result: {error}."})
            return JSONResponse({"error": str(error)}, status_code=error.status)
        if job is None:
            return JSONResponse({"error": "no such job"}, status_code=404)
        # The post has arrived; the way back of its answer is the other half of the round trip.
        await asyncio.sleep(board.rules.post_delay_s / 2)
        if is_last:
            board.finish(worker, job, body)
        else:
            board.append(worker, job, body)
        await asyncio.sleep(board.rules.post_delay_s / 2)
        return JSONResponse({"status": "ok"})

    async def _ping(self, request: Request) -> Response:
        worker, held = request.path_params["worker"], request.query_params.get("job_id", "")
        if request.query_params.get("status") == "unhealthy":
            self._board.unhealthy[worker] = request.query_params.get("reason", "")
        else:
            self._board.ready.add(worker)
        self._board.ping(worker, [job for job in held.split(",") if job])
        return JSONResponse({"status": "ok"})


def _handed_out(job: Job) -> dict[str, object]:
    return {"id": job.id, "input": job.input}
