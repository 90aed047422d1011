"""Tests of a recurrent memory: it has one state for each sequence, can be copied whole, and cannot be cut."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.tiny_models import write_recurrent
from worker_gguf.engine.batch import Chunk
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.llama.candidates import Floats
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model
from worker_gguf.llama.runner import LlamaRunner

TOKENS = [int(token) for token in np.random.default_rng(13).integers(0, 256, 40)]


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(write_recurrent(tmp_path_factory.mktemp("mamba") / "mamba.gguf"), ModelParams())
    assert model.is_recurrent
    yield model
    model.close()


def params(unified: bool) -> ContextParams:
    return ContextParams(
        n_ctx=256, n_parallel=2, n_cells=512, n_batch=128, n_ubatch=128, n_threads=1, n_threads_batch=1,
        unified=unified, flash_attn="off", type_k="f32", type_v="f32",
    )  # fmt: skip


@pytest.fixture(params=[True, False], ids=["unified", "partitioned"])
def context(request: pytest.FixtureRequest, recurrent: Model) -> Iterator[Context]:
    made = Context(recurrent, params(request.param))
    yield made
    made.close()


def logits(context: Context, slot: int, start: int, tokens: list[int]) -> Floats:
    row: Floats = context.decode([Chunk(slot, start, tokens, 1)])[0].copy()
    return row


def test_a_whole_sequence_can_be_copied_and_continued(context: Context) -> None:
    fresh = logits(context, 0, 0, TOKENS)
    assert context.truncate(0, 0)
    logits(context, 0, 0, TOKENS[:30])
    assert context.copy(0, 1, 30)
    np.testing.assert_allclose(logits(context, 1, 30, TOKENS[30:]), fresh, atol=0.001)
    np.testing.assert_allclose(logits(context, 0, 30, TOKENS[30:]), fresh, atol=0.001)


def test_a_cut_at_the_end_is_none_and_one_before_it_is_refused(context: Context) -> None:
    logits(context, 0, 0, TOKENS)
    assert context.truncate(0, len(TOKENS))
    assert not context.truncate(0, len(TOKENS) - 1)


def test_limits_allow_only_whole_prefixes(recurrent: Model) -> None:
    context = Context(recurrent, params(False))
    runner = LlamaRunner(recurrent, context, recurrent.vocabulary.special, n_sampling_threads=1)
    assert runner.limits.prefix == "whole"
    context.close()
