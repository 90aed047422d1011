"""Tests of a batch from its lines to its results, over a fake worker."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from tests.batch.conftest import chat, lines, read_results
from tests.fake_backend import SECRET_PROMPT, FakeBackend
from worker_gguf.batch.dispatch import Dispatch
from worker_gguf.batch.run import run_batch
from worker_gguf.errors import BatchError, EngineCrashed, QueueFull
from worker_gguf.observe.account import Account
from worker_gguf.observe.metrics import Metrics
from worker_gguf.service.request import Answer, Request, Stream


async def run(backend: FakeBackend, *requests: object, width: int = 4) -> list[dict[str, Any]]:
    """Return the results in the order of the requests."""
    dispatch = Dispatch(backend, Metrics("test"))
    results = [result async for result in run_batch(iter(lines(*requests)), dispatch, width=width)]
    assert sorted(result.line.number for result in results) == list(range(1, len(requests) + 1))
    return read_results(b"".join(result.content for result in sorted(results, key=lambda result: result.line.number)))


async def one(request: object, backend: FakeBackend | None = None) -> dict[str, Any]:
    (result,) = await run(backend or FakeBackend(), request)
    return result


async def test_a_result_has_openais_form() -> None:
    result = await one(chat("a"))
    assert result["id"].startswith("batch_req_1_")
    assert (result["custom_id"], result["error"]) == ("a", None)
    response = result["response"]
    assert response.keys() == {"status_code", "request_id", "body"}
    assert response["status_code"] == 200
    assert response["request_id"].startswith("req_")
    assert response["body"]["object"] == "chat.completion"
    assert "x_ignored_parameters" not in response["body"]


async def test_requests_reach_the_worker_as_those_of_http() -> None:
    backend = FakeBackend()
    result = await one({**chat("a", n=1), "url": "/chat/completions"}, backend)
    ((method, path, body, request_id),) = backend.calls
    assert (method, path, body) == ("POST", "/v1/chat/completions", {"messages": [], "n": 1})
    assert request_id == result["response"]["request_id"]


async def test_a_get_is_a_request_too() -> None:
    result = await one({"custom_id": "a", "method": "GET", "url": "/v1/models/fake"})
    assert result["response"]["body"]["id"] == "fake"


async def test_a_url_may_have_a_query() -> None:
    backend = FakeBackend()
    result = await one({"custom_id": "a", "method": "GET", "url": "/props?model=embedded"}, backend)
    assert result["response"]["status_code"] == 200
    assert (backend.calls[0][:2], backend.queries) == (("GET", "/props"), [{"model": "embedded"}])


async def test_an_error_of_the_route_has_the_envelope_of_its_api() -> None:
    results = await run(
        FakeBackend(),
        {**chat("no route"), "url": "/v1/messages/batches?beta=true"},
        {**chat("method"), "url": "/api/chat", "method": "GET"},
    )
    missing, refused = (result["response"]["body"] for result in results)
    assert (missing["type"], missing["error"]["type"]) == ("error", "not_found_error")
    assert refused == {"error": "This route does not accept GET. Use POST."}


async def test_ignored_names_are_listed_in_the_body() -> None:
    result = await one({**chat("a", ignored="user"), "metadata": 1})
    assert result["response"]["body"]["x_ignored_parameters"] == ["metadata", "user"]


async def test_each_fault_is_the_result_of_its_own_line() -> None:
    results = await run(
        FakeBackend(),
        chat("good"),
        ["no", "object"],
        {**chat("url"), "url": "/v1/nothing"},
        {**chat("whole url"), "url": "https://api.openai.com/v1/chat/completions"},
        {**chat("method"), "method": "DELETE"},
        {**chat("body"), "body": None},
        chat("stream", stream=True),
        chat("bug", boom=True),
        chat("good too"),
    )
    statuses = [result["response"] and result["response"]["status_code"] for result in results]
    assert statuses == [200, None, 404, 400, 405, 400, 400, 500, 200]
    assert [result["custom_id"] for result in results if result["response"]] == [
        *("good", "url", "whole url", "method", "body", "stream", "bug", "good too")
    ]
    assert results[1]["error"] == {
        "code": "invalid_request",
        "message": "Request 2: The line must be a JSON object with 'custom_id', 'method', 'url' and 'body'.",
    }
    errors = [result["response"]["body"].get("error") for result in results if result["response"]]
    assert [error and error["code"] for error in errors] == [
        *(None, "not_found", "invalid_request", "method_not_allowed", "invalid_request", "unsupported_parameter"),
        *("internal_error", None),
    ]
    assert SECRET_PROMPT not in str(results)


async def test_a_result_is_one_line_for_every_reader() -> None:
    breaks = "a\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b"
    (line,) = lines(chat(breaks))
    result = await Dispatch(FakeBackend(), Metrics("test")).answer(line)
    assert len(result.content.decode().splitlines()) == 1
    assert read_results(result.content)[0]["custom_id"] == breaks


async def test_a_stream_is_refused_and_its_generation_cancelled() -> None:
    backend = FakeBackend()
    result = await one(chat("a", stream=True), backend)
    assert result["response"]["body"]["error"]["param"] == "stream"
    assert (len(backend.cancelled), backend.running) == (1, set())


async def test_requests_with_the_same_custom_id_have_a_result_each() -> None:
    first, second = await run(FakeBackend(), chat("a"), chat("a"))
    assert first["custom_id"] == second["custom_id"] == "a"
    assert first["id"] != second["id"]


class Counting(FakeBackend):
    """Records how many requests run at once. A `crashes` in the body is the number of the first tries that fail."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self.n_running = 0
        self.tries: dict[object, int] = {}

    async def _complete(self, body: object, account: Account) -> Answer | Stream:
        assert isinstance(body, dict)
        self.n_running += 1
        self.most = max(self.most, self.n_running)
        try:
            await asyncio.sleep(0)
            key = body.get("key")
            self.tries[key] = self.tries.get(key, 0) + 1
            if self.tries[key] <= body.get("crashes", 0):
                raise EngineCrashed("The process died.")
            return await super()._complete(body, account)
        finally:
            self.n_running -= 1


async def test_as_many_requests_as_may_run_at_once() -> None:
    backend = Counting()
    await run(backend, *(chat(str(number), key=number) for number in range(50)), width=7)
    assert backend.most == 7


async def test_a_request_that_the_engine_lost_is_sent_again() -> None:
    backend = Counting()
    results = await run(backend, chat("lost", key=1, crashes=1), chat("other", key=2))
    assert [result["response"]["status_code"] for result in results] == [200, 200]
    assert backend.tries == {1: 2, 2: 1}


async def test_one_that_it_always_loses_gets_the_error() -> None:
    backend = Counting()
    dispatch = Dispatch(backend, Metrics("test"))
    requests = lines(chat("lost", key=1, crashes=99), chat("other", key=2))
    run = run_batch(iter(requests), dispatch, width=2, deaths_within_s=0)
    contents = b"".join([result.content async for result in run])
    other, lost = read_results(contents)
    assert other["custom_id"] == "other"
    assert lost["response"]["body"]["error"]["code"] == "engine_crashed"
    assert lost["response"]["status_code"] == 503
    assert backend.tries == {1: 3, 2: 1}


class TwoPlaces(Counting):
    async def _complete(self, body: object, account: Account) -> Answer | Stream:
        if self.n_running == 2:
            raise QueueFull("Full.", retry_after_s=10_000)
        return await super()._complete(body, account)


async def test_requests_that_find_the_queue_full_do_not_wait_while_others_end() -> None:
    backend = TwoPlaces()
    results = await run(backend, *(chat(str(number), key=number) for number in range(20)), width=8)
    assert [result["response"]["status_code"] for result in results] == [200] * 20
    assert backend.most == 2


class GivenUp(FakeBackend):
    """Fails for good at its third request."""

    def health(self) -> dict[str, Any]:
        return {"error": {"code": "engine_crashed", "message": "It died three times."}}

    async def answer(self, request: Request) -> Answer | Stream:
        if len(self.calls) == 3:
            self.phase = "failed"
            raise EngineCrashed("It died three times.")
        return await super().answer(request)


async def test_a_worker_that_failed_stops_the_batch_and_no_request_gets_its_error() -> None:
    dispatch = Dispatch(GivenUp(), Metrics("test"))
    run = run_batch(iter(lines(*map(chat, "abcdef"))), dispatch, width=2)
    results = [await anext(run) for _ in range(3)]
    assert [result.error for result in results] == [None] * 3
    with pytest.raises(BatchError, match="It died three times"):
        await anext(run)


async def test_after_stop_running_requests_are_finished_and_no_more_are_sent() -> None:
    backend, stop = FakeBackend(), asyncio.Event()
    run = run_batch(
        iter(lines(*(chat(str(n)) for n in range(20)))), Dispatch(backend, Metrics("x")), width=3, stop=stop
    )
    n_results = 0
    async for _ in run:
        n_results += 1
        stop.set()
    assert n_results == len(backend.calls) == 3


async def test_closing_cancels_what_runs() -> None:
    backend = FakeBackend()
    requests = [chat("quick"), chat("slow", hang=True)]
    async with aclosing(run_batch(iter(lines(*requests)), Dispatch(backend, Metrics("x")), width=2)) as results:
        assert (await anext(results)).line.number == 1
    assert (len(backend.cancelled), backend.running) == (1, set())


async def test_requests_are_counted_by_route_and_never_by_a_clients_name() -> None:
    metrics = Metrics("test")
    requests = lines(chat("a"), {**chat("b"), "url": "/made/up"})
    async for _ in run_batch(iter(requests), Dispatch(FakeBackend(), metrics), width=2):
        pass
    text = metrics.render().decode()
    assert 'route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'route="other",status="404"} 1.0' in text
    assert "made" not in text
