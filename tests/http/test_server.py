"""Tests of how the HTTP server stops: running requests finish in time, and a second signal ends it at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.fake_backend import FakeBackend, event
from tests.http.serving import CHAT
from worker_gguf.http.app import create_app
from worker_gguf.http.binding import bind
from worker_gguf.http.server import serve
from worker_gguf.observe.metrics import Metrics

STREAM = {"messages": [], "stream": True, "hang": True}


@asynccontextmanager
async def serving(
    backend: FakeBackend, drain_timeout_s: float, stop: asyncio.Event | None = None
) -> AsyncIterator[tuple[asyncio.Task[None], httpx.AsyncClient]]:
    sock = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    app = create_app(backend, api_keys=[], max_body_bytes=1000, metrics=Metrics("test"))
    # A backend that does not hear of the cut: the server must leave all the same.
    serving_it = serve(
        [(app, sock)], drain=backend.drain, cut_off=lambda: None, drain_timeout_s=drain_timeout_s, stop=stop
    )
    task = asyncio.create_task(serving_it)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
        assert (await client.get("/ping")).status_code == 200
        yield task, client
    await asyncio.wait_for(task, 10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_lets_a_stream_finish_and_ping_says_503(number: signal.Signals) -> None:
    backend = FakeBackend()
    async with serving(backend, 10) as (task, client), client.stream("POST", CHAT, json=STREAM) as reply:
        parts = reply.aiter_bytes()
        received = await anext(parts)
        os.kill(os.getpid(), number)
        while not backend.drained.is_set():
            await asyncio.sleep(0.001)
        assert (await client.get("/ping")).status_code == 503
        assert (await client.post(CHAT, json={"messages": []})).status_code == 503
        assert not task.done()
        backend.release()
        async for part in parts:
            received += part
        assert received.startswith(event(0))
        assert received.endswith(b"data: [DONE]\n\n")
    assert backend.cancelled == []


async def test_idle_server_leaves_at_once() -> None:
    backend = FakeBackend()
    async with serving(backend, 60) as (task, _):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 5)
    assert backend.drained.is_set()


async def test_stream_over_the_timeout_is_cancelled() -> None:
    backend = FakeBackend()
    async with serving(backend, 0.1) as (task, client), client.stream("POST", CHAT, json=STREAM) as reply:
        await anext(reply.aiter_bytes())
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 10)
    assert (len(backend.cancelled), backend.running) == (1, set())


async def test_second_signal_leaves_at_once() -> None:
    backend = FakeBackend()
    async with serving(backend, 600) as (task, client), client.stream("POST", CHAT, json=STREAM) as reply:
        await anext(reply.aiter_bytes())
        os.kill(os.getpid(), signal.SIGTERM)
        while not backend.drained.is_set():
            await asyncio.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 9)
    assert (len(backend.cancelled), backend.running) == (1, set())


async def test_event_stops_it_like_a_signal() -> None:
    backend, stop = FakeBackend(), asyncio.Event()
    async with serving(backend, 10, stop) as (task, _):
        stop.set()
        await asyncio.wait_for(task, 5)
    assert backend.drained.is_set()
