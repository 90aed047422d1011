"""The address that OpenAI's clients talk to, /openai/v1: each request becomes a job, and the job's yields the reply."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from emulator.board import Board
from emulator.body import BadRequest, read_json
from emulator.jobs import Job

__all__ = ["OpenAISide"]

_CUT = {
    "message": "The worker that streamed this answer stopped before its end. Send the request again.",
    "type": "server_error",
    "param": None,
    "code": "worker_lost",
}


class OpenAISide:
    """Only the route and the body of a request reach the worker: no header, no method, no key."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def routes(self, prefix: str) -> list[BaseRoute]:
        return [Route(f"{prefix}/openai/{{route:path}}", self._openai, methods=["GET", "POST"])]

    async def _openai(self, request: Request) -> Response:
        given: dict[str, Any] = {"openai_route": f"/{request.path_params['route']}"}
        if request.method == "POST":
            try:
                given["openai_input"] = await read_json(request, self._board.rules.max_sync_bytes)
            except BadRequest as error:
                return JSONResponse({"error": str(error)}, status_code=error.status)
        job = self._board.submit(given)
        while not job.chunks and not job.is_over:
            await job.changed.wait()
            self._board.sweep()
            if await request.is_disconnected():
                self._board.cancel(job)
        if job.error is not None or not job.chunks:
            return _failed(job)
        first = job.chunks[0].get("output")
        if isinstance(first, str):
            return StreamingResponse(self._events(job, job.n_tries), media_type="text/event-stream")
        return JSONResponse(first)

    async def _events(self, job: Job, n_tries: int) -> AsyncIterator[str]:
        """Yield the events of the worker that took the job as the `n_tries`th one."""
        n_sent = 0
        try:
            while True:
                # the events that were sent cannot be taken back, and the next worker would begin anew
                if job.n_tries != n_tries:
                    yield f"data: {json.dumps({'error': _CUT})}\n\n"
                    return
                while n_sent < len(job.chunks):
                    chunk = job.chunks[n_sent].get("output")
                    n_sent += 1
                    yield chunk if isinstance(chunk, str) else json.dumps(chunk)
                if job.is_over:
                    if job.status != "COMPLETED":
                        yield f"data: {json.dumps(_error_body(job))}\n\n"
                    return
                await job.changed.wait()
                self._board.sweep()
        finally:
            self._board.cancel(job)  # the client left; does nothing to a job that is over


def _failed(job: Job) -> Response:
    """Return the answer of a failed job: a 500 (worker-vllm#104), with the error as the body if it can be parsed."""
    return JSONResponse(_error_body(job), status_code=500)


def _error_body(job: Job) -> Any:
    try:
        return json.loads(job.error)
    except (TypeError, ValueError):
        return {"error": job.error or f"the job is {job.status}"}
