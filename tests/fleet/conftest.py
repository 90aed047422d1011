"""A real worker with several real models and room for one of them, shared by the tests of a file."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.fleet.fleet import Fleet
from worker_gguf.observe.metrics import Metrics
from worker_gguf.settings import Settings
from worker_gguf.worker import Worker

BIG_CONTEXT = {"n_ctx": 8192, "n_parallel": 4}


def several(folder: Path, **changes: object) -> Settings:
    """`a` and `b` are the embedded model, `b` with a large context; `broken` is no model, `gone` is not there."""
    shutil.copy(MODEL_PATH, folder / "other.gguf")
    (folder / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    models = [
        {"alias": "a", "model": "embedded"},
        {"alias": "b", "model": str(folder / "other.gguf"), **BIG_CONTEXT},
        {"alias": "broken", "model": str(folder / "broken.gguf")},
        {"alias": "gone", "model": str(folder / "gone.gguf")},
    ]
    values: dict[str, object] = {
        "models": json.dumps(models),
        "models_max": 1,
        "model_min_residence_s": 0.05,
        "model_turn_s": 0.1,
        "n_threads": 1,
        "n_parallel": 1,
        "n_ctx": 2048,
    }
    return Settings(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return Metrics("test")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, metrics: Metrics) -> Iterator[Worker]:
    made = Worker(several(tmp_path_factory.mktemp("models")), metrics)
    made.start()
    asyncio.run(made.wait_ready())
    yield made
    made.stop()


@pytest.fixture
def fleet(worker: Worker) -> Fleet:
    fleet = worker._host
    assert isinstance(fleet, Fleet)
    return fleet
