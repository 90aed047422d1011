"""Tests of the start of several models, and of models that cannot serve a request."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from tests import asking
from tests.fleet.asking import ask, states
from tests.fleet.conftest import several
from tests.tiny_models import write_encoder
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import SettingsError, UnsupportedParameter
from worker_gguf.fleet.fleet import Fleet
from worker_gguf.fleet.model import FleetModel, Found
from worker_gguf.observe.metrics import Metrics
from worker_gguf.readahead.prefetch import Prefetch
from worker_gguf.service.request import Answer
from worker_gguf.settings import Settings
from worker_gguf.start.head_start import HeadStart
from worker_gguf.worker import Worker


def open_files() -> list[str]:
    links = Path("/proc/self/fd").iterdir()
    return [str(link.readlink()) for link in links if link.exists()]


async def test_a_model_that_does_not_generate_is_not_loaded_for_a_chat(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder.gguf")
    models = json.dumps([{"alias": "a", "model": "embedded"}, {"alias": "e", "model": str(encoder)}])
    worker = Worker(several(tmp_path, models=models), Metrics("test"))
    worker.start()
    await worker.wait_ready()
    fleet = worker._host
    assert isinstance(fleet, Fleet)
    await asyncio.to_thread(fleet.models["e"].look)
    with pytest.raises(UnsupportedParameter, match="does not generate text"):
        await ask(worker, "e")
    assert fleet.describe()["unloads"] == 0
    assert (await states(worker))["a"] == "loaded"
    worker.stop()


async def test_another_model_that_fails_in_any_way_does_not_fail_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = FleetModel.find

    def fail(model: FleetModel) -> Found:
        if model.name == "b":
            raise OSError(5, "Input/output error")
        return find(model)

    monkeypatch.setattr(FleetModel, "find", fail)
    worker = Worker(several(tmp_path, models_preload=2, models_max=2), Metrics("test"))
    worker.start()
    await worker.wait_ready()
    assert worker.status() == "ready"
    assert (await ask(worker, "a"))["model"] == "a"
    worker.stop()


def test_a_wrong_list_of_models_closes_the_head_start(tmp_path: Path) -> None:
    path = Path(shutil.copy(MODEL_PATH, tmp_path / "model.gguf"))
    head_start = HeadStart(Prefetch((path,)).start())
    assert str(path) in open_files()
    worker = Worker(Settings(models="[1]"), Metrics("test"), head_start=head_start)
    worker.start()
    with pytest.raises(SettingsError):
        asyncio.run(worker.wait_ready())
    assert str(path) not in open_files()
    worker.stop()


async def test_without_a_name_the_first_model_that_can_do_it_answers(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder.gguf")
    models = json.dumps([{"alias": "a", "model": "embedded"}, {"alias": "e", "model": str(encoder)}])
    worker = Worker(several(tmp_path, models=models), Metrics("test"))
    worker.start()
    await worker.wait_ready()
    fleet = worker._host
    assert isinstance(fleet, Fleet)
    await asyncio.to_thread(fleet.models["e"].look)
    for name, path, body in (
        ("e", "/v1/embeddings", {"input": "cat"}),
        ("a", "/v1/completions", {"prompt": "cat", "max_tokens": 1}),
    ):
        answer = await asking.ask(worker, "POST", path, body)
        assert isinstance(answer, Answer)
        assert isinstance(answer.body, dict)
        assert answer.body["model"] == name
    with pytest.raises(UnsupportedParameter, match="'e' does not rank documents"):
        await asking.ask(worker, "POST", "/v1/rerank", {"model": "e", "query": "cat", "documents": ["cat"]})
    with pytest.raises(
        UnsupportedParameter, match=r"^No model of this worker can rank documents\. .*'a' \(completion\)"
    ):
        await asking.ask(worker, "POST", "/v1/rerank", {"query": "cat", "documents": ["cat"]})
    worker.stop()
