"""Tests of saved states: a slot that loads one goes on as if it had computed its tokens, in every kind of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_models import write_hybrid, write_recurrent, write_sliding_window
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.batch import Chunk
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.llama.candidates import Floats
from worker_gguf.llama.context import Context, State
from worker_gguf.llama.model import Model

TOKENS = [int(token) for token in np.random.default_rng(17).integers(0, 200, 60)]
KINDS: dict[str, Callable[[Path], Path]] = {
    "attention": lambda path: MODEL_PATH,
    "sliding window": write_sliding_window,
    "recurrent": write_recurrent,
    "hybrid": write_hybrid,
}


@pytest.fixture(scope="module", params=list(KINDS))
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(KINDS[request.param](tmp_path_factory.mktemp("states") / "model.gguf"), ModelParams())
    yield model
    model.close()


@pytest.fixture(params=[True, False], ids=["unified", "partitioned"])
def context(request: pytest.FixtureRequest, any_model: Model) -> Iterator[Context]:
    params = ContextParams(
        n_ctx=128, n_parallel=3, n_cells=384, n_batch=128, n_ubatch=128, n_threads=1, n_threads_batch=1,
        unified=request.param,
    )  # fmt: skip
    made = Context(any_model, params)
    yield made
    made.close()


def logits(context: Context, slot: int, start: int, tokens: list[int]) -> Floats:
    row: Floats = context.decode([Chunk(slot, start, tokens, 1)])[0].copy()
    return row


@pytest.mark.parametrize("target", [0, 2])
def test_a_loaded_state_goes_on_like_a_computed_one(context: Context, target: int) -> None:
    fresh = logits(context, 1, 0, TOKENS)
    logits(context, 0, 0, TOKENS[:40])
    state = context.save(0)
    assert state is not None
    logits(context, 0, 40, [1, 2, 3])
    logits(context, 2, 0, TOKENS[:20])
    assert context.load(target, state)
    np.testing.assert_allclose(logits(context, target, 40, TOKENS[40:]), fresh, atol=0.01)


def test_a_state_can_be_loaded_more_than_once(context: Context) -> None:
    logits(context, 0, 0, TOKENS[:40])
    state = context.save(0)
    assert state is not None
    rows = []
    for slot in (0, 1, 2):
        assert context.load(slot, state)
        rows.append(logits(context, slot, 40, TOKENS[40:]))
    np.testing.assert_allclose(rows[1], rows[0], atol=0.01)
    np.testing.assert_allclose(rows[2], rows[0], atol=0.01)


def test_a_loaded_state_can_be_cut_where_the_memory_can(context: Context, any_model: Model) -> None:
    fresh = logits(context, 1, 0, TOKENS)
    logits(context, 0, 0, TOKENS[:30] + [1] * 20)
    state = context.save(0)
    assert state is not None
    assert context.load(2, state)
    if any_model.is_recurrent or any_model.window:
        assert not context.truncate(2, 30)
        return
    assert context.truncate(2, 30)
    np.testing.assert_allclose(logits(context, 2, 30, TOKENS[30:]), fresh, atol=0.01)


def test_tokens_after_a_loaded_state_can_be_cut_again(context: Context, any_model: Model) -> None:
    if any_model.is_recurrent:
        pytest.skip("a recurrent memory cannot be cut")
    fresh = logits(context, 1, 0, TOKENS)
    logits(context, 0, 0, TOKENS[:40])
    state = context.save(0)
    assert state is not None
    assert context.load(2, state)
    logits(context, 2, 40, [1, 2, 3])
    assert context.truncate(2, 40)
    np.testing.assert_allclose(logits(context, 2, 40, TOKENS[40:]), fresh, atol=0.01)


def test_a_damaged_state_is_refused_and_leaves_the_slot_empty(context: Context) -> None:
    fresh = logits(context, 1, 0, TOKENS)
    logits(context, 0, 0, TOKENS[:40])
    state = context.save(0)
    assert state is not None
    assert not context.load(0, State(state.data[: state.size // 2].copy()))
    np.testing.assert_allclose(logits(context, 0, 0, TOKENS), fresh, atol=0.01)
