"""Tests of opening a model that pools: real engine processes, whose numbers are those of the bare library."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_models
from tests.llama.bare_rows import bare_rows
from tests.pooled import pooled
from tests.start.test_open_model import BOTH, opened
from tests.waiting import wait_until
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import ModelInvalid
from worker_gguf.link.process import EngineProcess
from worker_gguf.start.checks import VectorFacts

INPUTS = [[2, 5, 6, 3], [2, 7, 3], [2, *[5, 8, 9, 10, 11] * 8, 3]]


@BOTH
def test_an_encoder_makes_the_vectors_of_the_bare_library(tmp_path: Path, is_first: bool) -> None:
    path = tiny_models.write_encoder(tmp_path / "encoder.gguf")
    loaded = opened(path, is_first=is_first, n_parallel=None)
    vectors = asyncio.run(pooled(loaded.engine, INPUTS))
    loaded.stop()
    for vector, rows in zip(vectors, bare_rows(path, INPUTS), strict=True):
        np.testing.assert_allclose(vector, rows.mean(axis=0), atol=2e-3)


@BOTH
def test_a_decoder_serves_vectors_in_place_of_text_when_asked(is_first: bool) -> None:
    loaded = opened(MODEL_PATH, is_first=is_first, pooling="last", n_parallel=None)
    inputs = [[7, 8, 9], [3, *range(20, 220)], [5]]
    vectors = asyncio.run(pooled(loaded.engine, inputs))
    loaded.stop()
    assert loaded.describe()["model"]["capabilities"] == ["embedding"]
    for vector, rows in zip(vectors, bare_rows(MODEL_PATH, inputs), strict=True):
        assert np.linalg.norm(vector - rows[-1]) < 0.01 * np.linalg.norm(rows[-1])


def test_a_reranker_says_that_it_ranks(tmp_path: Path) -> None:
    loaded = opened(tiny_models.write_reranker(tmp_path / "reranker.gguf"), n_parallel=None)
    scores = asyncio.run(pooled(loaded.engine, INPUTS))
    loaded.stop()
    assert loaded.describe()["model"]["capabilities"] == ["rerank"]
    assert [len(score) for score in scores] == [1, 1, 1]
    assert loaded.engine.limits.pooling is not None
    assert loaded.engine.limits.pooling.ranks


def test_a_ranker_without_a_head_does_not_start() -> None:
    with pytest.raises(ModelInvalid, match="has no class head"):
        opened(MODEL_PATH, pooling="rank")


def test_an_engine_process_that_is_killed_is_replaced_by_one_that_pools(tmp_path: Path) -> None:
    loaded = opened(tiny_models.write_encoder(tmp_path / "encoder.gguf"), n_parallel=None)
    before = asyncio.run(pooled(loaded.engine, INPUTS))
    process = loaded.engine._link
    assert isinstance(process, EngineProcess)
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: loaded.engine.n_deaths == 1 and loaded.engine.is_running)
    after = asyncio.run(pooled(loaded.engine, INPUTS))
    loaded.stop()
    for first, second in zip(before, after, strict=True):
        assert first.tolist() == second.tolist()


@pytest.mark.parametrize(
    ("facts", "ok", "says"),
    [
        (VectorFacts(1.5), True, "one was computed"),
        (VectorFacts(0.0, ranks=True), True, "one was computed"),
        (VectorFacts(0.0), False, "only zeros"),
        (VectorFacts(math.nan), False, "no finite numbers"),
        (VectorFacts(None), False, "no finite numbers"),
        (VectorFacts(None, "It failed."), False, "It failed. Start another worker."),
    ],
)
def test_the_first_vector_shows_whether_the_model_computes(facts: VectorFacts, ok: bool, says: str) -> None:
    check = facts.check()
    assert (check.name, check.ok) == ("vector", ok)
    assert says in check.reason
