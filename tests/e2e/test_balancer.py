"""Tests of two real workers behind nginx: restarts lose no request, hold none back and leave none running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.e2e.balancer import NGINX, TIMEOUT_S, Balanced, Load, balanced, poll, roll

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx)"),
    pytest.mark.slow,
]

CHAT = "/v1/chat/completions"
ENDLESS = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 900, "ignore_eos": True}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balanced]:
    with balanced(tmp_path_factory.mktemp("balancer"), SSE_PING_S="0.05") as found:
        yield found


@asynccontextmanager
async def client(running: Balanced) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=running.url, timeout=TIMEOUT_S, trust_env=False, limits=limits) as made:
        yield made


def n_cancelled(running: Balanced) -> float:
    return sum(worker.metric('worker_gguf_finished_total{reason="cancelled"}') for worker in running.workers)


def wait_idle(running: Balanced) -> None:
    poll(lambda: running.n_busy() == 0, running.workers[0].log)


def test_a_rolling_restart_under_load_loses_nothing(running: Balanced) -> None:
    with Load(running.url, n_clients=4) as load:
        roll(running, load)
    tries = running.tries()
    print(f"{load.n_whole} right and whole, {len(load.lost)} lost; what the workers said, in turn: {dict(tries)}")
    assert load.lost == []
    assert load.whole["streamed"]
    assert load.whole["plain"]
    # The restarts were noticed: some requests met a worker that drains, loads or is gone, and went on to the other.
    assert any(", 200" in statuses for statuses in tries)


async def test_the_first_token_arrives_long_before_the_last_is_made(running: Balanced) -> None:
    async with client(running) as http, http.stream("POST", CHAT, json=ENDLESS | {"stream": True}) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert "x-accel-buffering" not in reply.headers  # it was for nginx, and nginx has obeyed
        parts = reply.aiter_raw()
        while not (n_events := (await anext(parts)).count(b"data:")):
            pass  # a comment
        assert n_events < 10
        assert running.n_busy() == 1
    wait_idle(running)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot_through_the_balancer(running: Balanced, stream: bool) -> None:
    before = n_cancelled(running)
    async with client(running) as http:
        asking = asyncio.create_task(http.post(CHAT, json=ENDLESS | {"stream": stream}))
        while running.n_busy() == 0:
            assert not asking.done()
            await asyncio.sleep(0.005)
        asking.cancel()
        await asyncio.wait({asking})
    wait_idle(running)
    assert n_cancelled(running) == before + 1


async def test_the_answer_of_full_workers_has_a_retry_after(running: Balanced) -> None:
    async with client(running) as http:
        asking = [asyncio.create_task(http.post(CHAT, json=ENDLESS)) for _ in range(16)]  # 2 x (4 slots + 4 waiting)
        while sum(worker.health()["queue"]["waiting"] for worker in running.workers) < 8:
            assert not any(task.done() for task in asking)
            await asyncio.sleep(0.005)
        refused = await http.post(CHAT, json=ENDLESS)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "queue_full"
    assert int(refused.headers["retry-after"]) >= 1
    wait_idle(running)


async def test_the_worker_is_named_so_that_a_balancer_or_a_log_can_tell_them_apart(running: Balanced) -> None:
    async with client(running) as http:
        replies = [await http.get("/v1/models") for _ in range(4)]
    assert {reply.headers["x-worker-id"] for reply in replies} == {"a", "b"}
    assert not any("x-runpod-worker-id" in reply.headers for reply in replies)  # the platform's own to add
