"""The addresses that clients of an endpoint talk to: /run, /runsync, /status, /stream, /cancel, /retry, /health."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from emulator.board import Board
from emulator.body import BadRequest, read_json
from emulator.jobs import Job
from emulator.rules import Policy

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
            Route(f"{prefix}/retry/{{job}}", self._retry, methods=["POST"]),
            Route(f"{prefix}/purge-queue", self._purge, methods=["POST"]),
            Route(f"{prefix}/health", self._health),
        ]

    async def _run(self, request: Request) -> Response:
        rules = self._board.rules
        try:
            job = await self._submit(request, rules.max_run_bytes, rules.retention_s)
        except BadRequest as error:
            return JSONResponse({"error": str(error)}, status_code=error.status)
        return JSONResponse({"id": job.id, "status": job.status})

    async def _run_sync(self, request: Request) -> Response:
        rules = self._board.rules
        try:
            job = await self._submit(request, rules.max_sync_bytes, rules.sync_retention_s)
        except BadRequest as error:
            return JSONResponse({"error": str(error)}, status_code=error.status)
        wait_ms = request.query_params.get("wait", "")
        wait_s = int(wait_ms) / 1000 if wait_ms.isdecimal() else _DEFAULT_WAIT_S
        deadline_s = time.monotonic() + min(max(wait_s, rules.min_wait_s), _MAX_WAIT_S)
        while not job.is_over and (left_s := deadline_s - time.monotonic()) > 0:
            await job.changed.wait(left_s)
            self._board.sweep()
        return JSONResponse(job.describe())

    async def _submit(self, request: Request, most_bytes: int, retention_s: float) -> Job:
        body = await read_json(request, most_bytes)
        if not isinstance(body, dict) or "input" not in body:
            raise BadRequest("input is required")
        try:
            policy = Policy.of(body.get("policy"), self._board.rules, retention_s=retention_s)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        return self._board.submit(body["input"], policy)

    async def _status(self, request: Request) -> Response:
        job = self._find(request)
        return _unknown_job() if job is None else JSONResponse(job.describe())

    async def _stream(self, request: Request) -> Response:
        """Give out what has come since the last time, waiting for the first of it."""
        job = self._find(request)
        if job is None:
            return _unknown_job()
        deadline_s = time.monotonic() + _DEFAULT_WAIT_S
        while len(job.chunks) == job.n_read and not job.is_over and (left_s := deadline_s - time.monotonic()) > 0:
            await job.changed.wait(left_s)
            self._board.sweep()
        new, job.n_read = job.chunks[job.n_read :], len(job.chunks)
        said: dict[str, Any] = {"status": job.status, "stream": new}
        if job.error is not None:
            said["error"] = job.error
        return JSONResponse(said)

    async def _cancel(self, request: Request) -> Response:
        job = self._find(request)
        if job is None:
            return _unknown_job()
        self._board.cancel(job)
        return JSONResponse({"id": job.id, "status": job.status})

    async def _retry(self, request: Request) -> Response:
        job = self._find(request)
        if job is None:
            return _unknown_job()
        if not self._board.retry(job):
            return JSONResponse({"error": f"only a job that failed can be retried: it is {job.status}"}, 400)
        return JSONResponse({"id": job.id, "status": job.status})

    async def _purge(self, request: Request) -> Response:
        return JSONResponse({"removed": self._board.purge(), "status": "completed"})

    async def _health(self, request: Request) -> Response:
        board = self._board
        board.sweep()
        jobs = {
            "completed": board.count("COMPLETED"),
            "failed": board.count("FAILED") + board.count("TIMED_OUT"),
            "inProgress": board.count("IN_PROGRESS"),
            "inQueue": board.count("IN_QUEUE"),
            "retried": board.n_retried,
        }
        states = board.workers()
        workers = {
            "idle": states["idle"],
            "initializing": 0,
            "ready": states["idle"] + states["running"],
            "running": states["running"],
            "throttled": 0,
            "unhealthy": states["unhealthy"],
        }
        return JSONResponse({"jobs": jobs, "workers": workers})

    def _find(self, request: Request) -> Job | None:
        self._board.sweep()
        return self._board.jobs.get(request.path_params["job"])


def _unknown_job() -> Response:
    return JSONResponse({"error": "job not found"}, status_code=404)
