"""The addresses that clients of an endpoint talk to: /run, /runsync, /status, /stream, /cancel, /openai/v1."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from worker_gguf.emulator.jobs import Board, Job

__all__ = ["ClientSide"]

_MAX_WAIT_S = 300.0
_DEFAULT_WAIT_S = 90.0


class ClientSide:
    """No key is asked for: this stand-in listens on loopback only."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def routes(self, prefix: str) -> list[BaseRoute]:
        return [
            Route(f"{prefix}/run", self._run, methods=["POST"]),
            Route(f"{prefix}/runsync", self._run_sync, methods=["POST"]),
            Route(f"{prefix}/status/{{job}}", self._status, methods=["GET", "POST"]),
            Route(f"{prefix}/stream/{{job}}", self._stream, methods=["GET", "POST"]),
            Route(f"{prefix}/cancel/{{job}}", self._cancel, methods=["POST"]),
            Route(f"{prefix}/purge-queue", self._purge, methods=["POST"]),
            Route(f"{prefix}/health", self._health),
            Route(f"{prefix}/openai/{{route:path}}", self._openai, methods=["GET", "POST"]),
        ]

    async def _run(self, request: Request) -> Response:
        try:
            job = self._board.submit(await _input(request))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse({"id": job.id, "status": job.status})

    async def _run_sync(self, request: Request) -> Response:
        try:
            job = self._board.submit(await _input(request))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        wait_ms = request.query_params.get("wait", "")
        deadline_s = time.monotonic() + min(
            int(wait_ms) / 1000 if wait_ms.isdecimal() else _DEFAULT_WAIT_S, _MAX_WAIT_S
        )
        while not job.is_over and time.monotonic() < deadline_s:
            await job.changed.wait(deadline_s - time.monotonic())
        return JSONResponse(job.describe())

    async def _status(self, request: Request) -> Response:
        job = self._board.jobs.get(request.path_params["job"])
        return _unknown_job() if job is None else JSONResponse(job.describe())

    async def _stream(self, request: Request) -> Response:
        """Give out what has come since the last time, waiting for the first of it."""
        job = self._board.jobs.get(request.path_params["job"])
        if job is None:
            return _unknown_job()
        deadline_s = time.monotonic() + _DEFAULT_WAIT_S
        while len(job.chunks) == job.n_read and not job.is_over and time.monotonic() < deadline_s:
            await job.changed.wait(deadline_s - time.monotonic())
        new, job.n_read = job.chunks[job.n_read :], len(job.chunks)
        said: dict[str, Any] = {"status": job.status, "stream": new}
        if job.error is not None:
            said["error"] = job.error
        return JSONResponse(said)

    async def _cancel(self, request: Request) -> Response:
        job = self._board.jobs.get(request.path_params["job"])
        if job is None:
            return _unknown_job()
        self._board.cancel(job)
        return JSONResponse({"id": job.id, "status": job.status})

    async def _purge(self, request: Request) -> Response:
        return JSONResponse({"removed": self._board.purge(), "status": "completed"})

    async def _health(self, request: Request) -> Response:
        board = self._board
        jobs = {
            "completed": board.count("COMPLETED"),
            "failed": board.count("FAILED"),
            "inProgress": board.count("IN_PROGRESS"),
            "inQueue": board.count("IN_QUEUE"),
        }
        return JSONResponse({"jobs": jobs, "workers": {"ready": len(board.pings)}})

    async def _openai(self, request: Request) -> Response:
        """Pass an OpenAI request through as a job: only its route and its body reach the worker."""
        given: dict[str, Any] = {"openai_route": f"/{request.path_params['route']}"}
        if request.method == "POST":
            try:
                given["openai_input"] = json.loads(await request.body())
            except ValueError:
                return JSONResponse({"error": "the body is not JSON"}, status_code=400)
        job = self._board.submit(given)
        while not job.chunks and not job.is_over:
            await job.changed.wait()
            if await request.is_disconnected():
                self._board.cancel(job)
        if job.error is not None or not job.chunks:
            return _failed(job)
        first = job.chunks[0].get("output")
        if isinstance(first, str):
            return StreamingResponse(self._events(job), media_type="text/event-stream")
        return JSONResponse(first)

    async def _events(self, job: Job) -> AsyncIterator[str]:
        n_sent = 0
        try:
            while True:
                while n_sent < len(job.chunks):
                    chunk = job.chunks[n_sent].get("output")
                    n_sent += 1
                    yield chunk if isinstance(chunk, str) else json.dumps(chunk)
                if job.is_over:
                    return
                await job.changed.wait()
        finally:
            self._board.cancel(job)  # the client left; does nothing to a job that is over


async def _input(request: Request) -> Any:
    try:
        body = json.loads(await request.body())
    except ValueError:
        raise ValueError("the body is not JSON") from None
    if not isinstance(body, dict) or "input" not in body:
        raise ValueError("input is required")
    return body["input"]


def _unknown_job() -> Response:
    return JSONResponse({"error": "job not found"}, status_code=404)


def _failed(job: Job) -> Response:
    """A failed job is a 500 (worker-vllm#104); its error is the body where it can be parsed."""
    try:
        body = json.loads(job.error)
    except (TypeError, ValueError):
        body = {"error": job.error or f"the job is {job.status}"}
    return JSONResponse(body, status_code=500)
