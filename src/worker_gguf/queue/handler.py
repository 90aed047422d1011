"""The handler of RunPod jobs: each job becomes one request, and its answer is yielded to the SDK.

An answer that is not streamed is one dict. A stream is a sequence of strings of whole server-sent events. An error is
{"error": "<envelope>"}, where the value is the error envelope of the route's dialect as a JSON string, because the SDK
would make it a string anyway. A job has no headers, so an answer lists ignored parameters in its field
`x_ignored_parameters`. The ignored parameters of a stream are only in the log and the metrics. A job with many requests
yields lines of JSON, see `batch_job`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from worker_gguf.batch.dispatch import Dispatch
from worker_gguf.errors import InvalidRequest, MethodNotAllowed, WorkerError
from worker_gguf.observe.account import CANCELLED, Account
from worker_gguf.observe.ending import note_ending
from worker_gguf.observe.log import bind
from worker_gguf.observe.metrics import Metrics
from worker_gguf.protocol.rendering import JsonBody
from worker_gguf.protocol.routes import CHAT
from worker_gguf.protocol.screening import with_ignored
from worker_gguf.queue.batch_job import BATCH_DIALECT, BatchJobs, BatchLimits, PostProgress
from worker_gguf.queue.job_input import JobCall, read_batch_input, read_job_input
from worker_gguf.queue.posts import Posts, StreamCount
from worker_gguf.service.backend import Backend
from worker_gguf.service.envelope import json_bytes, log_unexpected, request_id_from
from worker_gguf.service.request import Answer, Request, Stream, dialect_for, request_for

if TYPE_CHECKING:
    from worker_gguf.observe.telemetry import Telemetry

__all__ = ["Handler", "Job", "Yield", "make_handler"]

logger = logging.getLogger(__name__)

Job = dict[str, Any]
Yield = str | JsonBody
Handler = Callable[[Job], AsyncGenerator[Yield, None]]

_UNEXPECTED = "The worker failed on this job. Its log has the details under this job's id."


def make_handler(
    backend: Backend,
    metrics: Metrics,
    batch_limits: BatchLimits,
    telemetry: Telemetry | None = None,
    post_progress: PostProgress | None = None,
) -> Handler:
    """Build the handler. It is a plain async generator function, because the SDK recognises nothing else."""

    stream_count = StreamCount()
    batch_jobs = BatchJobs(Dispatch(backend, metrics, telemetry), batch_limits, post_progress)

    async def handler(job: Job) -> AsyncGenerator[Yield, None]:
        run = _JobRun(backend, metrics, telemetry, stream_count, batch_jobs, str(job.get("id", "")))
        async with aclosing(run.answer(job.get("input"))) as yields:
            async for item in yields:
                yield item

    return handler


class _JobRun:
    """Runs one job: reads its input, yields its answer and logs one line."""

    def __init__(
        self,
        backend: Backend,
        metrics: Metrics,
        telemetry: Telemetry | None,
        stream_count: StreamCount,
        batch_jobs: BatchJobs,
        job_id: str,
    ) -> None:
        self._backend = backend
        self._batch_jobs = batch_jobs
        self._stream_count = stream_count
        self._metrics = metrics
        self._telemetry = telemetry
        self._job_id = request_id_from(job_id)
        self._account = Account("queue", self._job_id)
        self._dialect = CHAT.dialect  # until the route of the job is known
        self._status = CANCELLED  # unless an answer or an error sets it
        self._n_posts = 0

    async def answer(self, job_input: object) -> AsyncGenerator[Yield, None]:
        # The fields need no unbinding, because the SDK runs each job in a separate task with its own context.
        bind(job_id=self._job_id, request_id=self._job_id)
        try:
            result = await self._dispatch(job_input)
            if isinstance(result, Answer):
                yield self._whole(result)
                return
            async with aclosing(self._streamed(result)) as posts:
                async for post in posts:
                    yield post
        except WorkerError as error:
            yield self._failed(error)
        except Exception as error:  # noqa: BLE001 - the SDK would put the traceback of a raised error into the answer
            log_unexpected(logger, error)
            yield self._failed(WorkerError(_UNEXPECTED))
        finally:
            self._note()

    async def _dispatch(self, job_input: object) -> Answer | Stream:
        if (batch := read_batch_input(job_input)) is not None:
            self._account.routed("POST", "batch")
            self._dialect = BATCH_DIALECT
            return Stream(self._batch_jobs.results(batch, self._job_id))
        return await self._backend.answer(self._request(read_job_input(job_input)))

    def _request(self, call: JobCall) -> Request:
        """Return the request of the job, and note its route."""
        self._account.ignored = call.ignored
        self._dialect = dialect_for(call.route)
        try:
            return request_for(call.method, call.route, call.body, self._account)
        except MethodNotAllowed:
            if call.absent is None:
                raise
            message = f"'{call.absent}' is missing or empty, and this route needs a body."
            raise InvalidRequest(message, param=call.absent) from None

    def _whole(self, answer: Answer) -> JsonBody:
        self._status = 200
        ignored = tuple(dict.fromkeys((*self._account.ignored, *answer.ignored)))  # an account has those of generations
        return with_ignored(answer.body, ignored)

    async def _streamed(self, stream: Stream) -> AsyncGenerator[str, None]:
        posts = Posts(stream.events, self._stream_count)
        task = asyncio.current_task()
        assert task is not None
        # If a job is stopped during a post, the SDK cancels its task outside of this generator, and keeps a reference
        # to the task until another job ends (`done` in rp_scale.run_jobs). Without this callback, the generator would
        # only be closed by garbage collection, maybe minutes later.
        task.add_done_callback(lambda _: posts.cancel())
        try:
            async for post in posts:
                self._n_posts += 1
                yield post
            self._status = 200
        except WorkerError as error:
            if not self._n_posts:
                raise
            yield self._late(error)
        except Exception as error:  # noqa: BLE001 - as above
            log_unexpected(logger, error)
            yield self._late(WorkerError(_UNEXPECTED))
        finally:
            await posts.close()

    def _late(self, error: WorkerError) -> str:
        """Return an error as the last event of a stream. A failed job would lose the events that it has streamed."""
        self._status, self._account.error = self._dialect.status(error), error
        return self._dialect.error_ending(error, self._job_id).decode()

    def _failed(self, error: WorkerError) -> dict[str, Any]:
        self._status, self._account.error = self._dialect.status(error), error
        return {"error": json_bytes(self._dialect.error_body(error, self._job_id)).decode()}

    def _note(self) -> None:
        record = self._account.close(self._status)
        note_ending(record, self._metrics, self._telemetry, logger, posts=self._n_posts)
