"""Tests of the real runner of a model that pools: every way of pooling, alone, together and in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import tiny_models
from tests.fake_pooler import pooling_request
from tests.llama.bare_rows import bare_rows
from worker_gguf.engine.params import ContextParams, ModelParams, PoolingParams, PoolingType
from worker_gguf.engine.pooling import Part, PoolingBatch, PoolingScheduler
from worker_gguf.errors import EngineFailed
from worker_gguf.gguf import read_header
from worker_gguf.llama.model import Model
from worker_gguf.llama.pooling import LlamaPooler, PoolingContext

Vector = NDArray[np.float32]
Write = Callable[[Path], Path]

N_CTX = 96
BERT_INPUTS = [[2, 5, 6, 3], [2, 7, 3], [2, *[5, 8, 9, 10, 11] * 8, 3], [2, 3], [2, 11, 10, 9, 8, 3]]
BYTE_INPUTS = [[256, *b"hello"], [256, 65], [256, *(b"a long input, " * 6)], [256, *b"world"], [256, *b"one more"]]
DECODERS = [
    tiny_models.write_attention,
    tiny_models.write_mixture,
    tiny_models.write_sliding_window,
    tiny_models.write_recurrent,
    tiny_models.write_hybrid,
]


@contextmanager
def pooler(
    path: Path, pooling: PoolingType, *, is_whole: bool, n_packed: int = 32, n_ubatch: int = 0
) -> Iterator[LlamaPooler]:
    model = Model(path, ModelParams())
    n_batch = max(N_CTX, n_packed) if is_whole else n_packed
    params = ContextParams(
        n_ctx=N_CTX,
        n_parallel=4,
        n_cells=N_CTX + n_packed,
        n_batch=n_batch,
        n_ubatch=n_ubatch or n_batch,
        n_threads=1,
        n_threads_batch=1,
        unified=True,
        pooling=PoolingParams(pooling, n_packed, is_whole),
    )
    made = LlamaPooler(PoolingContext(model, params))
    try:
        yield made
    finally:
        made.close()
        model.close()


def run(runner: LlamaPooler, inputs: Sequence[Sequence[int]]) -> list[Vector]:
    """Compute inputs as the scheduler packs them."""
    scheduler = PoolingScheduler(runner.limits)
    for number, tokens in enumerate(inputs):
        scheduler.add(pooling_request(str(number), tokens), 1)
    found: dict[str, bytes] = {}
    while not scheduler.is_idle:
        batch = scheduler.schedule()
        assert batch is not None
        for result in scheduler.commit(batch, runner.run(batch)):
            assert result.values is not None, result.error
            found[result.request_id] = result.values
    return [np.frombuffer(found[str(number)], "<f4") for number in range(len(inputs))]


def alone(runner: LlamaPooler, inputs: Sequence[Sequence[int]]) -> list[Vector]:
    return [vector for tokens in inputs for vector in run(runner, [tokens])]


def assert_equal(vectors: Sequence[Vector], expected: Sequence[Vector]) -> None:
    """Compare within what 16-bit keys and values change in a model whose attention is sharp."""
    for vector, right in zip(vectors, expected, strict=True):
        assert np.linalg.norm(vector - right) < 0.01 * np.linalg.norm(right)


@pytest.mark.parametrize(
    ("pooling", "of_rows"),
    [
        ("mean", lambda rows: rows.mean(axis=0)),
        ("cls", lambda rows: rows[0]),
        ("last", lambda rows: rows[-1]),
    ],
)
def test_an_encoder_pools_its_rows(pooling: PoolingType, of_rows: Callable[[Vector], Vector], tmp_path: Path) -> None:
    path = tiny_models.write_encoder(tmp_path / "encoder.gguf")
    expected = [of_rows(rows) for rows in bare_rows(path, BERT_INPUTS)]
    with pooler(path, pooling, is_whole=True) as runner:
        assert_equal(alone(runner, BERT_INPUTS), expected)
        assert_equal(run(runner, BERT_INPUTS), expected)


@pytest.mark.parametrize("write", DECODERS)
def test_a_decoder_takes_its_last_row_although_an_input_is_computed_in_parts(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "decoder.gguf")
    expected = [rows[-1] for rows in bare_rows(path, BYTE_INPUTS)]
    assert max(map(len, BYTE_INPUTS)) > 2 * 32
    with pooler(path, "last", is_whole=False) as runner:
        assert_equal(run(runner, BYTE_INPUTS), expected)
        assert_equal(alone(runner, BYTE_INPUTS), expected)


def test_a_step_may_be_longer_than_what_is_computed_at_once(tmp_path: Path) -> None:
    path = tiny_models.write_attention(tmp_path / "decoder.gguf")
    expected = [rows[-1] for rows in bare_rows(path, BYTE_INPUTS)]
    with pooler(path, "last", is_whole=False, n_ubatch=8) as runner:
        assert_equal(run(runner, BYTE_INPUTS), expected)


@pytest.mark.parametrize("write", DECODERS[:3])
def test_a_decoder_pools_the_mean_of_a_whole_input(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "decoder.gguf")
    expected = [rows.mean(axis=0) for rows in bare_rows(path, BYTE_INPUTS)]
    with pooler(path, "mean", is_whole=True) as runner:
        assert_equal(run(runner, BYTE_INPUTS), expected)


@pytest.mark.parametrize("labels", [[], ["no", "maybe", "yes"]])
def test_a_ranker_gives_the_scores_of_its_head(labels: list[str], tmp_path: Path) -> None:
    n_scores = max(1, len(labels))
    path = tiny_models.write_reranker(tmp_path / "reranker.gguf", classes=n_scores, labels=labels)
    weights = tensors(path)
    first = [rows[0] for rows in bare_rows(path, BERT_INPUTS)]
    inner = [np.tanh(weights["cls.weight"] @ row + weights["cls.bias"]) for row in first]
    expected = [weights["cls.output.weight"] @ row + weights["cls.output.bias"] for row in inner]
    with pooler(path, "rank", is_whole=True) as runner:
        assert runner.limits.pooling is not None
        assert (runner.limits.pooling.n_values, runner.limits.pooling.ranks) == (n_scores, True)
        assert_equal(run(runner, BERT_INPUTS), [row.astype(np.float32) for row in expected])


def tensors(path: Path) -> Mapping[str, NDArray[np.float32]]:
    data = path.read_bytes()
    return {
        tensor.name: np.frombuffer(data, "<f4", tensor.size_bytes // 4, tensor.offset).reshape(tensor.shape[::-1])
        for tensor in read_header(path).tensors
    }


def test_numbers_that_are_not_finite_spoil_no_other_input(tmp_path: Path) -> None:
    path = tiny_models.write_encoder(tmp_path / "encoder.gguf")
    data = bytearray(path.read_bytes())
    embeddings = next(tensor for tensor in read_header(path).tensors if tensor.name == "token_embd.weight")
    row_bytes = 4 * embeddings.shape[0]
    start = embeddings.offset + 6 * row_bytes
    data[start : start + 4] = np.float32("nan").tobytes()
    path.write_bytes(data)
    with pooler(path, "mean", is_whole=True) as runner:
        good, bad = Part(0, 0, (2, 5, 3), is_last=True), Part(1, 0, (2, 6, 3), is_last=True)
        alone = runner.run(PoolingBatch((), (good,))).values
        assert runner.run(PoolingBatch((), (good, bad))).values == alone
        assert alone.keys() == {0}


def test_a_slot_that_was_left_between_two_parts_is_empty_for_the_next_input(tmp_path: Path) -> None:
    path = tiny_models.write_attention(tmp_path / "decoder.gguf")
    (expected,) = (rows[-1] for rows in bare_rows(path, [BYTE_INPUTS[0]]))
    with pooler(path, "last", is_whole=False) as runner:
        runner.run(PoolingBatch((), (Part(0, 0, tuple(BYTE_INPUTS[2][:32]), is_last=False),)))
        result = runner.run(PoolingBatch((0,), (Part(0, 0, tuple(BYTE_INPUTS[0]), is_last=True),)))
        assert_equal([np.frombuffer(result.values[0], "<f4")], [expected])


def test_a_failed_computation_is_an_error_and_leaves_the_slots_empty(tmp_path: Path) -> None:
    path = tiny_models.write_attention(tmp_path / "decoder.gguf")
    with pooler(path, "last", is_whole=False) as runner:
        failed = runner.run(PoolingBatch((), (Part(0, 0, (256, 1 << 20), is_last=True),)))
        assert isinstance(failed.error, EngineFailed)
        assert "could not be computed" in failed.error.message
        assert len(run(runner, BYTE_INPUTS)) == len(BYTE_INPUTS)
