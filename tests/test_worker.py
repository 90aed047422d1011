"""Tests of the worker's life cycle, with the embedded model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.asking import ask
from tests.hanging import hanging, process_of
from tests.waiting import wait_until
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.params import ModelParams
from worker_gguf.errors import EngineCrashed, EngineWedged, ModelError, NotReady, TemplateError, WorkerError
from worker_gguf.generation.engine import Engine
from worker_gguf.llama.model import Model
from worker_gguf.observe.metrics import Metrics
from worker_gguf.service.request import Answer
from worker_gguf.settings import Settings
from worker_gguf.store.cache import Cache
from worker_gguf.worker import EXIT_GIVEN_UP, Worker


def worker(leave: Callable[[int], None] = os._exit, **changes: object) -> Worker:
    values: dict[str, object] = {"n_threads": 1, "n_parallel": 2, "n_ctx": 512}
    return Worker(Settings(**{**values, **changes}), Metrics("test"), leave=leave)  # type: ignore[arg-type]


def test_requests_are_refused_before_the_worker_is_ready() -> None:
    waiting = worker()
    assert waiting.status() == "starting"
    with pytest.raises(NotReady, match="not ready yet"):
        asyncio.run(ask(waiting, "GET", "/v1/models"))


def test_it_becomes_ready_answers_drains_and_stops() -> None:
    async def life() -> None:
        running = worker()
        running.start()
        await running.wait_ready()
        assert running.status() == "ready"
        answer = await ask(running, "GET", "/v1/models")
        assert isinstance(answer, Answer)
        assert running.health()["model"]["id"] == "embedded"
        assert running.health()["plan"]["degraded"] == ()
        await running.drain()
        assert running.status() == "draining"
        with pytest.raises(NotReady, match="shutting down"):
            await ask(running, "GET", "/v1/models")
        running.stop()
        assert running.status() == "stopped"

    asyncio.run(life())


async def test_requests_are_accepted_during_the_grace_of_a_drain() -> None:
    running = worker()
    running.start()
    await running.wait_ready()
    draining = asyncio.create_task(running.drain(0.3))
    while running.status() == "ready":
        await asyncio.sleep(0)
    assert isinstance(await ask(running, "GET", "/v1/models"), Answer)
    assert not draining.done()
    await draining
    with pytest.raises(NotReady, match="shutting down"):
        await ask(running, "GET", "/v1/models")
    running.stop()


async def test_cut_off_ends_the_grace() -> None:
    running = worker()
    running.start()
    await running.wait_ready()
    draining = asyncio.create_task(running.drain(600))
    while running.status() == "ready":
        await asyncio.sleep(0)
    running.cut_off()
    with pytest.raises(NotReady, match="shutting down"):
        await ask(running, "GET", "/v1/models")
    await asyncio.wait_for(draining, 10)
    running.stop()


def test_a_model_that_is_not_there_fails_the_start_with_a_sentence(tmp_path: Path) -> None:
    missing = worker(model=str(tmp_path / "no.gguf"))
    missing.start()
    with pytest.raises(ModelError, match="No model file exists"):
        asyncio.run(missing.wait_ready())
    assert missing.status() == "failed"
    assert missing.health()["error"]["code"] == "model_not_found"
    with pytest.raises(NotReady, match="could not start"):
        asyncio.run(ask(missing, "GET", "/v1/models"))
    missing.stop()
    assert missing.status() == "failed"


def test_a_broken_file_fails_the_start_with_a_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 100)
    started = worker(model=str(broken))
    started.start()
    with pytest.raises(ModelError):
        asyncio.run(started.wait_ready())
    started.stop()


def test_a_bad_chat_template_fails_the_start() -> None:
    started = worker(chat_template="{{ broken")
    started.start()
    with pytest.raises(Exception, match="template"):
        asyncio.run(started.wait_ready())
    started.stop()


def test_it_is_ready_only_when_its_metrics_are_there() -> None:
    started = Worker(Settings(n_threads=1, n_parallel=1, n_ctx=512))
    started.start()
    wait_until(lambda: "service" in started.timeline.seconds(), 60)
    assert started.status() == "starting"
    metrics = Metrics("test")
    started.measure(metrics)
    asyncio.run(started.wait_ready())
    assert started.status() == "ready"
    assert 'worker_gguf_start_phase_seconds{phase="total"}' in metrics.render().decode()
    started.stop()


def test_a_stop_during_the_start_cancels_it() -> None:
    started = worker()
    started.start()
    started.stop(30)
    assert started.status() == "stopped"


CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


def engine_of(running: Worker) -> Engine:
    assert running._host is not None
    (engine,) = running._host.engines()
    return engine


async def test_an_engine_that_hangs_is_replaced_and_the_next_request_is_answered() -> None:
    running = worker(watchdog_s=0.3)
    running.start()
    await running.wait_ready()
    with hanging(engine_of(running)):
        with pytest.raises(EngineWedged):
            await asyncio.wait_for(ask(running, "POST", "/v1/chat/completions", CHAT), 20)
        assert running.status() == "reloading"
        answer = await asyncio.wait_for(ask(running, "POST", "/v1/chat/completions", CHAT), 20)
    assert isinstance(answer, Answer)
    assert running.status() == "ready"
    assert running.health()["engine"] == {"state": "running", "deaths": 1}
    running.stop()


async def test_a_worker_stops_although_its_engine_hangs() -> None:
    running = worker()
    running.start()
    await running.wait_ready()
    with hanging(engine_of(running)):
        asked = asyncio.create_task(ask(running, "POST", "/v1/chat/completions", CHAT))
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.to_thread(running.stop), 20)
        with contextlib.suppress(WorkerError):
            await asyncio.wait_for(asked, 5)
    assert running.status() == "stopped"


def has_settled(engine: Engine, n_deaths: int) -> bool:
    return engine.n_deaths == n_deaths and engine.state != "reloading"


async def test_an_engine_process_that_is_killed_three_times_ends_the_worker() -> None:
    left: list[int] = []
    running = worker(leave=left.append)
    running.start()
    await running.wait_ready()
    engine = engine_of(running)
    for n_deaths in (1, 2, 3):
        os.kill(process_of(engine).pid, signal.SIGKILL)
        await asyncio.to_thread(wait_until, partial(has_settled, engine, n_deaths), 30)
    assert running.status() == "failed"
    assert "died 3 times within 60 s" in running.health()["error"]["message"]
    with pytest.raises(EngineCrashed):
        await ask(running, "POST", "/v1/chat/completions", CHAT)
    await asyncio.to_thread(wait_until, lambda: left == [EXIT_GIVEN_UP], 10)
    running.stop()


def test_the_alias_is_the_models_name() -> None:
    async def life() -> None:
        running = worker(model_alias="tiny")
        running.start()
        await running.wait_ready()
        answer = await ask(running, "GET", "/v1/models")
        assert isinstance(answer, Answer)
        assert answer.body["data"][0]["id"] == "tiny"
        assert "embedded" in answer.body["data"][0]["meta"]["aliases"]
        running.stop()

    asyncio.run(life())


def original_of_the_embedded_model(folder: Path, **changes: object) -> str:
    """Write the files that Transformers would have written for the embedded model, with another template."""
    model = Model(MODEL_PATH, ModelParams())
    texts = [model.vocabulary.token_text(token) for token in range(model.vocabulary.n_tokens)]
    model.close()
    special = [{"id": token, "content": texts[token]} for token in (1018, 1022)]
    config = {"bos_token": texts[1018], "eos_token": texts[1022], "chat_template": "{{ bos_token }}only this"}
    tokenizer = {"model": {"vocab": {text: token for token, text in enumerate(texts[:1018])}}, "added_tokens": special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | changes))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(folder)


async def test_the_template_comes_from_the_original_repository(tmp_path: Path) -> None:
    running = worker(tokenizer=original_of_the_embedded_model(tmp_path))
    running.start()
    await running.wait_ready()
    body = {"messages": [{"role": "user", "content": "a long question that the template leaves out"}], "max_tokens": 1}
    answer = await ask(running, "POST", "/v1/chat/completions", body)
    assert isinstance(answer, Answer)
    assert answer.body["usage"]["prompt_tokens"] < 10
    running.stop()


async def test_a_tokenizer_of_another_model_fails_the_start_with_a_sentence(tmp_path: Path) -> None:
    folder = original_of_the_embedded_model(tmp_path)
    other = json.loads((tmp_path / "tokenizer.json").read_text())
    other["added_tokens"][0]["id"] = 1017
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    running = worker(tokenizer=folder)
    running.start()
    with pytest.raises(ModelError, match="does not belong to this model"):
        await running.wait_ready()
    running.stop()


def test_a_failed_start_releases_the_models_file(tmp_path: Path) -> None:
    model = tmp_path / "models--org--tiny" / "snapshots" / "abc" / "tiny.gguf"
    model.parent.mkdir(parents=True)
    model.write_bytes(MODEL_PATH.read_bytes())

    def marks() -> list[Path]:
        return list(Cache(tmp_path).marks.glob("*.json"))

    running = worker(model=str(model), model_cache_dir=tmp_path)
    running.start()
    asyncio.run(running.wait_ready())
    assert len(marks()) == 1
    running.stop()
    assert marks() == []
    failing = worker(model=str(model), model_cache_dir=tmp_path, chat_template="{{ broken")
    failing.start()
    with pytest.raises(TemplateError):
        asyncio.run(failing.wait_ready())
    assert marks() == []
    failing.stop()
