"""Tests of jobs with many requests, driven as the SDK drives the handler."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.batch.conftest import chat, read_results
from tests.fake_backend import FakeBackend
from worker_gguf.errors import EngineCrashed
from worker_gguf.observe.metrics import Metrics
from worker_gguf.queue.batch_job import BatchLimits, PostProgress
from worker_gguf.queue.handler import Yield, make_handler
from worker_gguf.service.request import Answer, Request, Stream

LIMITS = BatchLimits(width=8)


async def run(
    backend: FakeBackend,
    given: object,
    limits: BatchLimits = LIMITS,
    post_progress: PostProgress | None = None,
    metrics: Metrics | None = None,
) -> list[Yield]:
    handler = make_handler(backend, metrics or Metrics("test"), limits, None, post_progress)
    return [item async for item in handler({"id": "job-1", "input": given})]


def results_of(yields: list[Yield]) -> list[dict[str, Any]]:
    assert all(isinstance(item, str) for item in yields)  # a dict with an error would fail the job
    return read_results("".join(map(str, yields)).encode())


@pytest.mark.parametrize("shape", ["list", "batch"])
async def test_each_request_of_a_list_has_a_result(shape: str) -> None:
    requests = [chat("a"), {"custom_id": "b"}, chat("c", stream=True)]
    yields = await run(FakeBackend(), requests if shape == "list" else {"batch": requests})
    results = {result["custom_id"]: result for result in results_of(yields)}
    assert results["a"]["response"]["status_code"] == 200
    assert results["b"]["error"]["message"] == "Request 2: 'method' is missing."
    assert results["c"]["response"]["status_code"] == 400


async def test_a_request_over_the_limit_of_a_body_is_refused_alone() -> None:
    yields = await run(FakeBackend(), [chat("a"), chat("b", key="x" * 1000)], BatchLimits(8, most_line_bytes=500))
    results = results_of(yields)
    assert [result["error"] and result["error"]["code"] for result in results] == ["payload_too_large", None] or [
        result["error"] and result["error"]["code"] for result in results
    ] == [None, "payload_too_large"]


async def test_a_job_stays_under_the_platforms_limit_and_says_what_it_left_out() -> None:
    backend = FakeBackend()
    limits = BatchLimits(width=2, most_output_bytes=2000)
    results = results_of(await run(backend, [chat(str(number)) for number in range(50)], limits))
    *answered, last = results
    assert len(answered) == len(backend.calls) < 50
    assert {result["custom_id"] for result in answered} == {str(number) for number in range(len(answered))}
    n_left = 50 - len(answered)
    assert last["id"] is last["custom_id"] is last["response"] is None
    assert (
        f"Request {len(answered) + 1} and all later requests ({n_left} of 50) were not sent"
        in (last["error"]["message"])
    )


async def test_large_results_of_the_first_requests_stay_under_the_platforms_limit() -> None:
    """All of them are sent before the size of any result is known."""
    requests = [chat(f"{number} {'x' * 700_000}") for number in range(1, 31)]
    yields = await run(FakeBackend(), requests, BatchLimits(width=16))
    assert len(json.dumps({"output": yields}, ensure_ascii=False).encode()) < 10_000_000
    *answered, last = results_of(yields)
    assert len(answered) == 13
    unanswered = {*range(1, 17)} - {int(result["custom_id"].split()[0]) for result in answered}
    names = ", ".join(f"Request {number}" for number in sorted(unanswered))
    assert last["error"]["message"] == (
        f"The results of a job may have 9.5 MB. So the results of these requests were dropped: {names}, and Request 17 "
        "and all later requests (14 of 30) were not sent. Send them as another job."
    )


async def test_a_small_result_after_one_without_room_is_yielded() -> None:
    requests = [chat("x" * 3000), chat("small"), chat("y" * 3000)]
    *answered, last = results_of(await run(FakeBackend(), requests, BatchLimits(width=3, most_output_bytes=4000)))
    assert len(answered) == 2
    assert "small" in {result["custom_id"] for result in answered}
    assert "were dropped: Request" in last["error"]["message"]
    assert "not sent" not in last["error"]["message"]


async def test_progress_is_posted_one_at_a_time_and_never_after_the_end() -> None:
    posts: list[dict[str, Any]] = []
    n_posting = 0

    async def post(job_id: str, progress: dict[str, Any]) -> None:
        nonlocal n_posting
        assert job_id == "job-1"
        n_posting += 1
        assert n_posting == 1
        try:
            await asyncio.sleep(0)
            posts.append(progress)
        finally:
            n_posting -= 1

    await run(FakeBackend(), [chat(str(n)) for n in range(40)], BatchLimits(width=2, progress_every_s=0), post)
    n_posts = len(posts)
    assert 0 < n_posts <= 40
    assert n_posting == 0
    answered = [progress["answered"] for progress in posts]
    assert answered == sorted(answered)
    assert posts[0].keys() == {"requests", "answered", "errors", "completion_tokens", "seconds_left"}
    await asyncio.sleep(0)
    assert len(posts) == n_posts


async def test_progress_that_cannot_be_posted_does_not_harm_the_job() -> None:
    async def post(job_id: str, progress: dict[str, Any]) -> None:
        raise OSError("away")

    yields = await run(FakeBackend(), [chat("a"), chat("b")], BatchLimits(8, progress_every_s=0), post)
    assert len(results_of(yields)) == 2


class FailsForGood(FakeBackend):
    async def answer(self, request: Request) -> Answer | Stream:
        if self.calls:
            self.phase = "failed"
            raise EngineCrashed("It died three times.")
        return await super().answer(request)


async def test_a_worker_that_fails_for_good_says_so_after_the_results() -> None:
    backend = FailsForGood()
    first, last = results_of(await run(backend, [chat("a"), chat("b"), chat("c")], BatchLimits(width=1)))
    assert first["custom_id"] == "a"
    assert last["error"]["code"] == "batch_failed"


async def test_a_stop_cancels_all_requests() -> None:
    backend = FakeBackend()
    task = asyncio.create_task(run(backend, [chat(str(number), hang=True) for number in range(5)]))
    while len(backend.running) < 5:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (len(backend.cancelled), backend.running) == (5, set())


async def test_a_stop_ends_the_fetch_of_a_file() -> None:
    is_asked, is_closed = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        is_asked.set()
        await reader.read()  # to the end of the connection
        writer.close()
        await writer.wait_closed()
        is_closed.set()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        url = "http://{}:{}/in.jsonl".format(*server.sockets[0].getsockname())
        task = asyncio.create_task(run(FakeBackend(), {"batch": url}, BatchLimits(8, may_be_private=True)))
        await is_asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await is_closed.wait()


@pytest.mark.parametrize("given", [{"batch": []}, {"batch": "ftp://files/in.jsonl"}, {"batch": "http://127.0.0.1/"}])
async def test_a_batch_that_cannot_begin_fails_the_job_with_an_envelope(given: object) -> None:
    (item,) = await run(FakeBackend(), given)
    assert isinstance(item, dict)
    assert json.loads(item["error"])["error"]["code"] == "invalid_request"


async def test_the_job_and_its_requests_are_counted_apart() -> None:
    metrics = Metrics("test")
    await run(FakeBackend(), [chat("a"), chat("b")], metrics=metrics)
    text = metrics.render().decode()
    assert 'route="/v1/chat/completions",status="200"} 2.0' in text
    assert 'route="batch",status="200"} 1.0' in text
