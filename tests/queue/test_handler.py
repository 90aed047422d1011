"""Tests of the handler, driven as the SDK drives it: one item at a time, each awaited like a post."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.asking import ask
from tests.fake_backend import SECRET_PROMPT, FakeBackend, event
from worker_gguf.errors import EngineFailed
from worker_gguf.observe.account import Account
from worker_gguf.observe.metrics import Metrics
from worker_gguf.queue.batch_job import BatchLimits
from worker_gguf.queue.handler import Yield, make_handler
from worker_gguf.queue.posts import GATHER_S, MAX_POST_BYTES, Posts, StreamCount
from worker_gguf.service.request import Stream

STREAM = {"messages": [], "stream": True}


async def run(backend: FakeBackend, given: object, metrics: Metrics | None = None) -> list[Yield]:
    handler = make_handler(backend, metrics or Metrics("test"), BatchLimits(4))
    return [item async for item in handler({"id": "job-1", "input": given})]


def envelope(items: list[Yield]) -> dict[str, Any]:
    (item,) = items
    assert isinstance(item, dict)
    assert isinstance(item["error"], str)  # the SDK would make a Python repr of a dict
    error: dict[str, Any] = json.loads(item["error"])["error"]
    return error


def test_the_sdk_recognises_a_generator() -> None:
    assert inspect.isasyncgenfunction(make_handler(FakeBackend(), Metrics("test"), BatchLimits(4)))


async def test_whole_answer_is_one_dict() -> None:
    backend = FakeBackend()
    (item,) = await run(backend, {"messages": []})
    assert isinstance(item, dict)
    assert item["object"] == "chat.completion"
    assert "x_ignored_parameters" not in item
    assert backend.calls == [("POST", "/v1/chat/completions", {"messages": []}, "job-1")]


async def test_a_whole_answer_lists_ignored_parameters() -> None:
    (item,) = await run(FakeBackend(), {"messages": [], "ignored": "user, store"})
    assert isinstance(item, dict)
    assert item["x_ignored_parameters"] == ["user", "store"]


async def test_get_without_input_lists_models() -> None:
    (item,) = await run(FakeBackend(), {"openai_route": "/v1/models", "openai_input": {}})
    assert isinstance(item, dict)
    assert item["object"] == "list"


@pytest.mark.parametrize("shape", [("openai_route", "openai_input"), ("route", "body")])
@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions", "//v1/chat/completions/"])
async def test_a_wrong_base_url_leads_to_the_route_that_is_meant(path: str, shape: tuple[str, str]) -> None:
    backend = FakeBackend()
    (item,) = await run(backend, dict(zip(shape, (path, {"messages": []}), strict=True)))
    assert isinstance(item, dict)
    assert item["object"] == "chat.completion"
    assert backend.calls[0][:2] == ("POST", "/v1/chat/completions")


async def test_another_route_is_refused_with_the_right_one() -> None:
    error = envelope(await run(FakeBackend(), {"openai_route": "/api/v1/completions", "openai_input": {"prompt": ""}}))
    assert error["code"] == "not_found"
    assert "Use /v1/completions" in error["message"]


@pytest.mark.parametrize("shape", [("openai_route", "openai_input"), ("route", "body")])
async def test_a_route_may_have_a_query(shape: tuple[str, str]) -> None:
    backend = FakeBackend()
    await run(backend, {shape[0]: "/props?model=a%2Fb+c&model=d%20e&autoload="})
    await run(backend, dict(zip(shape, ("/v1/messages?beta=true", {"messages": []}), strict=True)))
    assert [call[:2] for call in backend.calls] == [("GET", "/props"), ("POST", "/v1/messages")]
    assert backend.queries == [{"model": "d e", "autoload": ""}, {"beta": "true"}]


async def test_an_error_of_the_route_has_the_envelope_of_its_api() -> None:
    (item,) = await run(FakeBackend(), {"route": "/v1/messages/batches?beta=true", "body": {}})
    assert isinstance(item, dict)
    assert json.loads(item["error"])["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"route": "/v1/responses"}, "body"),
        ({"route": "/v1/responses", "method": "POST", "body": None}, None),
        ({"openai_route": "/v1/responses", "openai_input": {}}, "openai_input"),
    ],
)
async def test_a_missing_body_is_named(given: object, missing: str | None) -> None:
    error = envelope(await run(FakeBackend(), given))
    assert error["code"] == "invalid_request"
    if missing:
        assert (error["param"], error["message"]) == (
            missing,
            f"'{missing}' is missing or empty, and this route needs a body.",
        )


async def test_a_get_where_there_is_none_is_still_refused_as_such() -> None:
    error = envelope(await run(FakeBackend(), {"route": "/v1/responses", "method": "GET"}))
    assert error["code"] == "method_not_allowed"


async def test_the_body_of_a_get_is_named_as_ignored() -> None:
    backend = FakeBackend()
    (item,) = await run(backend, {"route": "/v1/models", "method": "GET", "body": {"model": "zz"}})
    assert isinstance(item, dict)
    assert item["x_ignored_parameters"] == ["body"]
    assert backend.calls[0][2] is None


async def test_of_thousands_of_ignored_names_as_many_are_listed_as_a_header_could() -> None:
    job = {"openai_route": "/v1/models", "openai_input": {}} | {f"name{number}": 1 for number in range(5000)}
    (item,) = await run(FakeBackend(), job)
    assert isinstance(item, dict)
    assert item["x_ignored_parameters"][:2] == ["name0", "name1"]
    assert item["x_ignored_parameters"][-1] == "..."
    assert len(", ".join(item["x_ignored_parameters"])) < 2100


@pytest.mark.parametrize("given", [None, [], "a", 5, {}, {"messages": "x", "prompt": 1}, {"openai_route": "v1"}])
async def test_bad_input_is_an_envelope(given: object) -> None:
    assert envelope(await run(FakeBackend(), given))["type"] == "invalid_request_error"


async def test_job_without_input_is_an_envelope() -> None:
    handler = make_handler(FakeBackend(), Metrics("test"), BatchLimits(4))
    assert envelope([item async for item in handler({"id": "a"})])["type"] == "invalid_request_error"


async def test_refusal_keeps_its_code() -> None:
    assert envelope(await run(FakeBackend(), {"messages": [], "full": 1}))["code"] == "queue_full"
    assert envelope(await run(FakeBackend(), {"route": "/nope"}))["code"] == "not_found"
    assert envelope(await run(FakeBackend("starting"), {"messages": []}))["code"] == "not_ready"


async def test_a_bug_tells_nothing_of_the_prompt() -> None:
    items = await run(FakeBackend(), {"messages": [], "boom": 1})
    assert envelope(items)["code"] == "internal_error"
    assert SECRET_PROMPT not in str(items)
    assert "Traceback" not in str(items)


async def test_stream_is_whole_events_in_order() -> None:
    backend = FakeBackend()
    items = await run(backend, STREAM | {"n_events": 20})
    assert all(isinstance(item, str) and item.startswith("data: ") and item.endswith("\n\n") for item in items)
    assert "".join(map(str, items)) == b"".join(event(i) for i in range(20)).decode() + "data: [DONE]\n\n"
    assert len(backend.finished) == 1
    assert backend.cancelled == []


async def test_first_event_leaves_alone_and_the_rest_gathers_during_its_post() -> None:
    handler = make_handler(FakeBackend(), Metrics("test"), BatchLimits(4))
    posts: list[str] = []
    async for item in handler({"id": "a", "input": STREAM | {"n_events": 50}}):
        posts.append(str(item))
        for _ in range(200):  # the time of a post, in turns of the loop
            await asyncio.sleep(0)
    assert posts[0] == event(0).decode()
    assert len(posts) == 2
    assert posts[1].count("data: ") == 50


async def test_error_before_the_first_event_fails_the_job() -> None:
    backend = FakeBackend()
    backend.fail_mid_stream = EngineFailed("llama_decode failed.")
    assert envelope(await run(backend, STREAM | {"n_events": 1}))["code"] == "engine_failed"


async def test_error_in_the_middle_is_the_last_event() -> None:
    backend = FakeBackend()
    backend.fail_mid_stream = EngineFailed("llama_decode failed.")
    items = await run(backend, STREAM)
    assert '"code":"engine_failed"' in str(items[-1])
    assert str(items[-1]).endswith("data: [DONE]\n\n")


async def test_stop_while_waiting_for_an_event_cancels_the_generation() -> None:
    backend = FakeBackend()
    task = asyncio.create_task(run(backend, STREAM | {"hang": 1}))
    while not backend.running:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (len(backend.cancelled), backend.running) == (1, set())


async def test_stop_during_a_post_cancels_the_generation_though_the_sdk_keeps_the_task() -> None:
    backend = FakeBackend()
    handler = make_handler(backend, Metrics("test"), BatchLimits(4))
    posting = asyncio.Event()

    async def as_the_sdk_does() -> None:
        async for _ in handler({"id": "a", "input": STREAM | {"hang": 1}}):
            posting.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(as_the_sdk_does())
    await posting.wait()
    task.cancel()
    await asyncio.wait({task})
    for _ in range(10):
        await asyncio.sleep(0)
    assert (len(backend.cancelled), backend.running) == (1, set())
    assert task.cancelled()


async def test_jobs_are_counted_under_known_routes_only() -> None:
    metrics = Metrics("test")
    await run(FakeBackend(), {"messages": []}, metrics)
    await run(FakeBackend(), {"route": "/made-up-by-a-client"}, metrics)
    text = metrics.render().decode()
    assert 'route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'route="other",status="404"} 1.0' in text


async def test_post_stays_under_the_platforms_limit() -> None:
    big = b"data: " + b"x" * 400_000 + b"\n\n"

    async def events() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield big

    posts = Posts(events())
    sizes = []
    async for post in posts:
        sizes.append(len(post))
        for _ in range(20):
            await asyncio.sleep(0)
    await posts.close()
    assert sum(sizes) == 5 * len(big)
    assert all(size % len(big) == 0 for size in sizes)
    assert max(sizes) <= MAX_POST_BYTES


async def test_close_before_the_reader_ran_still_closes_the_events() -> None:
    backend = FakeBackend()
    stream = await ask(backend, "POST", "/v1/chat/completions", STREAM, Account("queue", "a"))
    assert isinstance(stream, Stream)
    await Posts(stream.events).close()
    assert backend.cancelled == ["a"]


async def test_a_single_stream_posts_without_waiting_and_many_wait_20_ms_at_most() -> None:
    crowd = StreamCount()
    assert crowd.gather_s == 0

    async def endless() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    all_posts = []
    for n in range(40):
        all_posts.append(Posts(endless(), crowd))
        assert crowd.gather_s == pytest.approx(GATHER_S * min(1, n / 8))
    for posts in all_posts:
        await posts.close()
    assert (crowd.n_streams, crowd.gather_s) == (0, 0)


async def test_a_gathering_post_leaves_at_the_streams_end() -> None:
    crowd = StreamCount()
    gate = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await gate.wait()
        yield b"data: 2\n\n"

    posts = Posts(events(), crowd)
    crowd.n_streams += 10**9  # a crowd that would wait for long, were it not for the end
    assert await anext(posts) == "data: 1\n\n"
    gate.set()
    assert await anext(posts) == "data: 2\n\n"
    assert await anext(posts, None) is None
    await posts.close()
