"""Tests of two listed models over HTTP, of which one sees images, with room for one of them in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bench import projectors
from tests.image_files import data_url, png
from tests.tiny_models import write_attention
from tests.waiting import wait_until
from worker_gguf.http.app import create_app
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.observe.metrics import Metrics
from worker_gguf.settings import Settings
from worker_gguf.worker import Worker

OWN = {"n_parallel": 1, "n_ctx": 256, "n_threads": 1, "max_tokens": 8, "models_max": 1, "model_min_residence_s": 0.05}
N_ROWS = 16


@pytest.fixture(scope="module", params=["seeing first", "seeing second"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a worker with the models `sees` and `blind`, of which the first one is loaded at the start."""
    folder = tmp_path_factory.mktemp("models")
    models = []
    for name in ("sees", "blind"):
        (folder / name).mkdir()
        models.append({"alias": name, "model": str(write_attention(folder / name / "tiny.gguf"))})
    projectors.write(folder / "sees" / "mmproj-tiny.gguf", projectors.Projector("mlp", 32))
    if request.param == "seeing second":
        models.reverse()
    metrics = Metrics("test")
    worker = Worker(Settings(models=json.dumps(models), **OWN), metrics)  # type: ignore[arg-type]
    worker.start()
    app = create_app(worker, api_keys=(), max_body_bytes=1 << 22, metrics=metrics)
    try:
        with ServerThread(app, bind("127.0.0.1", 0)) as server:
            asyncio.run(worker.wait_ready())
            wait_until(lambda: all(meta(server.url, name) for name in ("sees", "blind")))
            yield server.url
    finally:
        worker.stop()


def post(url: str, model: str, *parts: bytes | str, status: int = 200) -> Any:
    shown = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in parts
    ]
    body = {"model": model, "messages": [{"role": "user", "content": shown}], "temperature": 0}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == status, reply.text
    return reply.json()


def listed(url: str, name: str) -> dict[str, Any]:
    models = httpx.get(f"{url}/v1/models", timeout=30).json()["data"]
    return next(model for model in models if model["id"] == name)


def meta(url: str, name: str) -> Any:
    """Return what is known of a model from its file; nothing before the worker has looked at it."""
    found = listed(url, name)["meta"]
    return found if found["n_params"] else None


def abilities(url: str, name: str) -> tuple[str, bool, bool]:
    """Return the state of a model, and whether it sees in the lists of OpenAI's and of Ollama's API."""
    tags = {tag["name"]: tag for tag in httpx.get(f"{url}/api/tags", timeout=30).json()["models"]}
    sees = ["vision" in found["capabilities"] for found in (meta(url, name), tags[f"{name}:latest"])]
    return listed(url, name)["status"]["value"], sees[0], sees[1]


def test_images_are_answered_by_the_model_that_sees_whenever_it_is_loaded(url: str) -> None:
    first = post(url, "sees", png(1), "What is this?")
    other = post(url, "sees", png(2), "What is this?")
    assert first["model"] == "sees"
    assert first["choices"][0]["message"]["content"] != other["choices"][0]["message"]["content"]
    text = post(url, "blind", "What is this?")
    assert first["usage"]["prompt_tokens"] == text["usage"]["prompt_tokens"] + N_ROWS
    assert abilities(url, "sees") == ("unloaded", True, True)
    assert abilities(url, "blind") == ("loaded", False, False)
    again = post(url, "sees", png(1), "What is this?")
    assert again["choices"] == first["choices"]
    assert abilities(url, "sees") == ("loaded", True, True)
    assert abilities(url, "blind") == ("unloaded", False, False)


@pytest.mark.parametrize("loaded", ["sees", "blind"])
def test_images_are_refused_by_the_other_one_loaded_or_not(url: str, loaded: str) -> None:
    post(url, loaded, "Hello")
    error = post(url, "blind", png(1), status=400)["error"]
    assert error["param"] == "messages.0.content.0.image_url"
    assert "'blind' does not see images" in error["message"]
    assert listed(url, loaded)["status"]["value"] == "loaded"


def test_the_plan_of_the_model_that_sees_has_its_projector(url: str) -> None:
    for name, has_one in ("sees", True), ("blind", False):
        post(url, name, "Hello")
        models = {model["id"]: model for model in httpx.get(f"{url}/health", timeout=30).json()["models"]}
        assert (models[name]["plan"]["projector"] is not None) == has_one
