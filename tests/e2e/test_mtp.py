"""Tests of a whole worker on a model with an MTP layer, also after its engine process was killed."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.asking import ask
from tests.mtp_models import write_mtp
from tests.waiting import wait_until
from worker_gguf.observe.metrics import Metrics
from worker_gguf.service.request import Answer
from worker_gguf.settings import Settings
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.worker import Worker


def worker_on(path: Path, speculation: str) -> Worker:
    values = {"n_parallel": 3, "n_ctx": 512, "n_threads": 1, "flash_attn": "off", "speculation": speculation}
    return Worker(Settings(model=str(path), **values), Metrics("test"))  # type: ignore[arg-type]


async def answers(worker: Worker) -> list[object]:
    await worker.wait_ready()
    bodies = [
        {"prompt": "abcdefgh" * n, "max_tokens": 120, "ignore_eos": True, "temperature": temperature, "seed": 7}
        for n, temperature in ((1, 0.0), (20, 0.0), (3, 0.8), (30, 1.2))
    ]
    found = await asyncio.gather(*(ask(worker, "POST", "/v1/completions", body) for body in bodies))
    assert all(isinstance(answer, Answer) for answer in found)
    return [answer.body["choices"][0]["text"] for answer in found if isinstance(answer, Answer)]


@pytest.mark.parametrize("agreement", [1.0, 0.9])
async def test_answers_come_with_the_layer_as_without_and_again_after_a_crash(tmp_path: Path, agreement: float) -> None:
    path = write_mtp(tmp_path / "mtp.gguf", agreement=agreement)
    plain = worker_on(path, "off")
    plain.start()
    try:
        wanted = await answers(plain)
    finally:
        plain.stop()
    worker = worker_on(path, "mtp")
    worker.start()
    try:
        assert await answers(worker) == wanted
        loaded = worker._host
        assert isinstance(loaded, LoadedModel)
        stats = loaded.stats
        n_drafted = stats.drafted_tokens
        assert n_drafted > 0
        assert stats.drafted_right_tokens <= stats.guessed_right_tokens
        assert stats.draft_seconds > 0
        os.kill(loaded.engine._link.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        wait_until(lambda: (loaded.engine.n_deaths, loaded.engine.state) == (1, "running"), 60)
        assert await answers(worker) == wanted
        assert stats.drafted_tokens > n_drafted
        assert worker.health()["plan"]["has_mtp"]
    finally:
        worker.stop()
