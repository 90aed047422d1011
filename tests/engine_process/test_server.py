"""Tests of what the server of an engine process does before it serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.engine.runner import Limits
from worker_gguf.engine_process import server
from worker_gguf.engine_process.server import Server
from worker_gguf.link.messages import ContextOpened, OpenContext
from worker_gguf.llama.bindings import llama_cpp
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model

PARAMS = ContextParams(
    n_ctx=256, n_parallel=1, n_cells=256, n_batch=64, n_ubatch=64, n_threads=6, n_threads_batch=6, unified=True
)


@pytest.fixture
def opened() -> Iterator[Server]:
    """A server with a loaded model, without the channel and the handlers of a process."""
    made = Server.__new__(Server)
    made._draft = made._projector = made._alternation = None
    made._model, made._adapters = Model(MODEL_PATH, ModelParams()), []
    yield made
    made._model.close()


@pytest.mark.parametrize(("cores", "n_threads"), [(1, 1), (2, 1), (4, 2), (64, 6)])
def test_the_first_token_leaves_two_cores_to_the_worker_process(
    opened: Server, monkeypatch: pytest.MonkeyPatch, cores: int, n_threads: int
) -> None:
    used: list[int] = []
    limiting = Context.limiting_threads

    @contextmanager
    def noting(context: Context, most: int) -> Iterator[None]:
        with limiting(context, most):
            used.append(llama_cpp.llama_n_threads(context._pointer))
            yield

    monkeypatch.setattr(Context, "limiting_threads", noting)
    monkeypatch.setattr(server, "n_cores", lambda: cores)
    report = opened._open(OpenContext(params=PARAMS, bos=0, draws_first=True, n_sampling_threads=1))
    assert isinstance(report, ContextOpened)
    assert isinstance(report.limits, Limits)
    assert report.first_error is None
    assert report.first_logprob is not None
    assert used == [n_threads]
