"""Tests of a model with a sliding window: its memory keeps all tokens, so that a prefix can be used again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.tiny_models import WINDOW, write_sliding_window
from worker_gguf.engine.batch import Chunk
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.llama.bindings import llama_cpp
from worker_gguf.llama.candidates import Floats
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model
from worker_gguf.llama.runner import LlamaRunner

TOKENS = [int(token) for token in np.random.default_rng(11).integers(0, 256, 6 * WINDOW)]
OTHER = [(token + 1) % 256 for token in TOKENS]


@pytest.fixture(scope="module")
def sliding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(write_sliding_window(tmp_path_factory.mktemp("swa") / "swa.gguf"), ModelParams())
    assert llama_cpp.llama_model_n_swa(model.pointer) == WINDOW
    yield model
    model.close()


@pytest.fixture(params=[True, False], ids=["unified", "partitioned"])
def context(request: pytest.FixtureRequest, sliding: Model) -> Iterator[Context]:
    params = ContextParams(
        n_ctx=256, n_parallel=2, n_cells=512, n_batch=128, n_ubatch=128, n_threads=1, n_threads_batch=1,
        unified=request.param, flash_attn="off", type_k="f32", type_v="f32",
    )  # fmt: skip
    made = Context(sliding, params)
    yield made
    made.close()


def logits(context: Context, slot: int, start: int, tokens: list[int]) -> Floats:
    row: Floats = context.decode([Chunk(slot, start, tokens, 1)])[0].copy()
    return row


@pytest.mark.parametrize("kept", [1, WINDOW // 2, WINDOW + 3, 4 * WINDOW])
def test_going_on_from_a_cut_prefix_gives_the_logits_of_computing_afresh(context: Context, kept: int) -> None:
    tokens = TOKENS[:kept] + OTHER[kept:]
    fresh = logits(context, 1, 0, tokens)
    logits(context, 0, 0, TOKENS)
    assert context.truncate(0, kept)
    np.testing.assert_allclose(logits(context, 0, kept, tokens[kept:]), fresh, atol=0.01)


def test_the_window_counts(context: Context) -> None:
    """Tokens far before the window change little but not nothing, because one layer of six sees everything."""
    near = logits(context, 0, 0, TOKENS)
    far = logits(context, 1, 0, OTHER[:WINDOW] + TOKENS[WINDOW:])
    assert np.abs(near - far).max() > 0.1


def test_a_copied_prefix_gives_the_logits_of_computing_afresh(context: Context) -> None:
    kept = 3 * WINDOW
    logits(context, 0, 0, TOKENS)
    assert context.copy(0, 1, kept)
    copied = logits(context, 1, kept, OTHER[kept:])
    context.truncate(0, 0)
    np.testing.assert_allclose(copied, logits(context, 0, 0, TOKENS[:kept] + OTHER[kept:]), atol=0.01)


@pytest.fixture
def shared(sliding: Model) -> Iterator[Context]:
    """A shared memory in which slot 2 has lost its beginning: llama.cpp gave that cell to slot 1, next to free ones."""
    params = ContextParams(
        n_ctx=256, n_parallel=4, n_cells=1024, n_batch=128, n_ubatch=128, n_threads=1, n_threads_batch=1, unified=True,
        flash_attn="off", type_k="f32", type_v="f32",
    )  # fmt: skip
    made = Context(sliding, params)
    for slot in (0, 1, 2):
        logits(made, slot, 0, TOKENS[:60])
    made.truncate(1, 0)
    logits(made, 1, 0, OTHER[:61])
    yield made
    made.close()


@pytest.mark.parametrize("kept", [1, WINDOW - 1, WINDOW, WINDOW + 3, 59])
def test_a_cut_is_refused_where_cells_in_the_window_are_gone(shared: Context, kept: int) -> None:
    assert shared.truncate(2, kept) == (kept >= WINDOW)


@pytest.mark.parametrize("kept", [1, WINDOW - 1, WINDOW, WINDOW + 3, 59])
def test_a_copy_is_refused_where_cells_in_the_window_are_gone(shared: Context, kept: int) -> None:
    assert shared.copy(2, 3, kept) == (kept >= WINDOW)


@pytest.mark.parametrize("kept", [WINDOW, WINDOW + 3, 59, 60])
@pytest.mark.parametrize("copies", [True, False])
def test_what_is_not_refused_gives_the_logits_of_computing_afresh(shared: Context, kept: int, copies: bool) -> None:
    tokens = TOKENS[:kept] + OTHER[kept:]
    assert shared.copy(2, 3, kept) if copies else shared.truncate(2, kept)
    reused = logits(shared, 3 if copies else 2, kept, tokens[kept:])
    shared.truncate(0, 0)
    np.testing.assert_allclose(reused, logits(shared, 0, 0, tokens), atol=0.01)


def test_its_prefixes_may_be_cut_anywhere(sliding: Model, context: Context) -> None:
    assert LlamaRunner(sliding, context, sliding.vocabulary.special).limits.prefix == "any"
