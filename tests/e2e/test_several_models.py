"""Tests of several models in a worker process, over HTTP: alternating load, a disconnect, SIGTERM before a swap."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.http.binding import bind

TIMEOUT_S = 60.0


class Process:
    def __init__(self, folder: Path) -> None:
        shutil.copy(MODEL_PATH, folder / "other.gguf")
        with bind("127.0.0.1", 0) as sock:
            port = sock.getsockname()[1]
        env = {
            "MODELS": f"a=embedded,b={folder / 'other.gguf'}",
            "MODELS_MAX": "1",
            "MODEL_MIN_RESIDENCE_S": "0.1",
            "MODEL_TURN_S": "0.2",
            "MODE": "http",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "N_CTX": "2048",
            "DRAIN_TIMEOUT_S": str(TIMEOUT_S),
            "N_PARALLEL": "1",
            "N_THREADS": "1",
        }
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker_gguf.cli", "serve"], env={**os.environ, **env}, stderr=subprocess.DEVNULL
        )

    async def ready(self, client: httpx.AsyncClient) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                try:
                    if (await client.get("/ping")).status_code == 200:
                        return
                except httpx.TransportError:
                    assert self.process.poll() is None
                await asyncio.sleep(0.05)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    made.process.kill()
    made.process.wait(TIMEOUT_S)


def completion(model: str, max_tokens: int) -> dict[str, object]:
    return {"model": model, "prompt": "Once", "max_tokens": max_tokens, "ignore_eos": True}


async def until(client: httpx.AsyncClient, *, running: list[int], waiting: list[int]) -> None:
    """Return when so many requests run and wait, model by model."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            models = (await client.get("/health")).json()["models"]
            if [m["running"] for m in models] == running and [m["waiting"] for m in models] == waiting:
                return
            await asyncio.sleep(0.01)


async def test_alternating_load_is_answered_and_a_sigterm_in_a_swap_ends_cleanly(process: Process) -> None:
    async with httpx.AsyncClient(base_url=process.url, timeout=TIMEOUT_S, trust_env=False) as client:
        await process.ready(client)
        listed = (await client.get("/v1/models")).json()["data"]
        assert {model["id"]: model["status"]["value"] for model in listed} == {"a": "loaded", "b": "unloaded"}

        answers = await asyncio.gather(
            *(client.post("/v1/completions", json=completion("ab"[n % 2], 4)) for n in range(24))
        )
        assert [answer.status_code for answer in answers] == [200] * 24
        assert [answer.json()["model"] for answer in answers] == list("ab" * 12)
        assert 1 <= (await client.get("/health")).json()["unloads"] < 24

        busy = asyncio.create_task(client.post("/v1/completions", json=completion("a", 1200)))
        await until(client, running=[1, 0], waiting=[0, 0])
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/completions", json=completion("b", 4), timeout=0.1)
        waiting = asyncio.create_task(client.post("/v1/completions", json=completion("b", 4)))
        await until(client, running=[1, 0], waiting=[0, 1])
        process.process.send_signal(signal.SIGTERM)
        assert (await busy).json()["usage"]["completion_tokens"] == 1200
        assert (await waiting).json()["model"] == "b"
    assert process.process.wait(TIMEOUT_S) == 0
