"""A real worker with the embedded model, behind a real uvicorn on loopback, shared by all end-to-end tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import openai
import pytest

from tests.waiting import wait_until
from worker_gguf.generation.engine import Engine
from worker_gguf.http.app import create_app
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.observe.metrics import Metrics
from worker_gguf.protocol.parameters import IGNORED
from worker_gguf.settings import Settings
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.worker import Worker


@dataclass(frozen=True)
class Running:
    worker: Worker
    url: str

    @property
    def engine(self) -> Engine:
        loaded = self.worker._host
        assert isinstance(loaded, LoadedModel)
        return loaded.engine


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    # One thread: the tests share few cores, and llama.cpp's threads spin while they wait for each other.
    settings = Settings(model="embedded", n_parallel=4, n_ctx=1024, n_threads=1, max_queue=300, max_tokens=64)
    metrics = Metrics("test", known_ignored=IGNORED)
    worker = Worker(settings, metrics)
    worker.start()
    app = create_app(worker, api_keys=(), max_body_bytes=1 << 20, metrics=metrics)
    with ServerThread(app, bind("127.0.0.1", 0)) as server:
        asyncio.run(worker.wait_ready())
        yield Running(worker, server.url)
    worker.stop()


@pytest.fixture(scope="session")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
def all_slots_free(running: Running) -> Iterator[None]:
    """After the test: nothing runs, nothing waits."""
    yield
    asyncio.run(asyncio.wait_for(running.engine.idle(), 30))
    # The worker's side of an answer may end before the engine process has freed its slot.
    wait_until(lambda: (running.engine.stats.busy_slots, running.engine.stats.waiting) == (0, 0), 30)
