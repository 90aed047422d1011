"""Answers one request of a batch through the routes and the worker, as HTTP does, and writes its result.

The result is a line of OpenAI's batch format: `{"id", "custom_id", "response", "error"}`. `response` is what HTTP would
have answered, errors included. `error` is for lines that are no requests. As in the answer of a job, ignored parameters
are listed in the body's field `x_ignored_parameters`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from worker_gguf.batch.lines import Line
from worker_gguf.batch.request import BatchRequest, BrokenLine, read_request
from worker_gguf.batch.results import result_id
from worker_gguf.errors import UnsupportedParameter, WorkerError
from worker_gguf.observe.account import CANCELLED, Account, Record
from worker_gguf.observe.ending import note_ending
from worker_gguf.observe.log import bound
from worker_gguf.observe.metrics import Metrics
from worker_gguf.protocol.rendering import JsonBody
from worker_gguf.protocol.screening import with_ignored
from worker_gguf.service.backend import Backend
from worker_gguf.service.envelope import json_bytes, log_unexpected, request_id_from
from worker_gguf.service.request import Answer, Request, close_events, dialect_for, request_for

if TYPE_CHECKING:
    from worker_gguf.observe.telemetry import Telemetry

__all__ = ["Dispatch", "Result", "error_result"]

logger = logging.getLogger(__name__)

_UNEXPECTED = "The worker failed on this request. Its log has the details under this request's id."
_OTHER_LINE_BREAKS = "\x85\u2028\u2029"
"""JSON allows these characters within texts, but some readers end a line at them, such as Python's `str.splitlines`."""
_NO_STREAM = (
    "A result is one whole answer: leave 'stream' out of the requests of a batch, or set it to false for Ollama's API."
)


class Result(Struct, frozen=True):
    """The result of a line. `content` is a line of the output. `error` is None if the request was answered."""

    line: Line
    content: bytes
    error: WorkerError | None = None
    n_tokens: int = 0
    """Generated tokens."""


class Dispatch:
    """Sends requests to the worker. Its methods can be called on several event loops."""

    def __init__(self, backend: Backend, metrics: Metrics, telemetry: Telemetry | None = None) -> None:
        self.backend = backend
        self._metrics = metrics
        self._telemetry = telemetry

    async def answer(self, line: Line) -> Result:
        """Answer the request of a line. Errors are results, too. Cancelling it cancels the generation."""
        try:
            request = read_request(line)
        except BrokenLine as broken:
            return Result(line, _content(line, broken.custom_id, None, _plain(broken.error)), broken.error)
        account = Account("batch", request_id_from(None))
        account.ignored = request.ignored
        body: JsonBody = {}
        status = CANCELLED
        dialect = dialect_for(request.url)
        with bound(request_id=account.request_id):
            try:
                routed = request_for(request.method, request.url, request.body, account)
                dialect = routed.route.dialect
                answer = await self._whole(routed)
                body = with_ignored(answer.body, account.ignored)
                status = 200
            except WorkerError as error:
                account.error = error
                status, body = dialect.status(error), dialect.error_body(error, account.request_id)
            except Exception as error:  # noqa: BLE001 - the last resort: a bug must be answered too
                log_unexpected(logger, error)
                account.error = WorkerError(_UNEXPECTED)
                status = dialect.status(account.error)
                body = dialect.error_body(account.error, account.request_id)
            finally:
                record = account.close(status)
                note_ending(record, self._metrics, self._telemetry, logger)
        return _result(line, request, record, body, account.error)

    async def _whole(self, request: Request) -> Answer:
        answer = await self.backend.answer(request)
        if isinstance(answer, Answer):
            return answer
        await close_events(answer.events)
        raise UnsupportedParameter(_NO_STREAM, param="stream")


def error_result(error: WorkerError) -> bytes:
    """Return a line of the output about no single request."""
    return _line({"id": None, "custom_id": None, "response": None, "error": _plain(error)})


def _result(line: Line, request: BatchRequest, record: Record, body: JsonBody, error: WorkerError | None) -> Result:
    response = {"status_code": record.status, "request_id": record.request_id, "body": body}
    return Result(line, _content(line, request.custom_id, response, None), error, record.completion_tokens)


def _content(line: Line, custom_id: str | None, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    return _line({"id": result_id(line), "custom_id": custom_id, "response": response, "error": error})


def _plain(error: WorkerError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message}


def _line(fields: dict[str, Any]) -> bytes:
    content = json_bytes(fields)  # escapes \n and \r within texts
    for character in _OTHER_LINE_BREAKS:
        content = content.replace(character.encode(), f"\\u{ord(character):04x}".encode())
    return content + b"\n"
