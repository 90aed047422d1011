"""The embedded model, loaded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.params import ModelParams
from worker_gguf.llama.model import Model


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    loaded = Model(MODEL_PATH, ModelParams())
    yield loaded
    loaded.close()
