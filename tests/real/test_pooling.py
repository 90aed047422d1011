"""Models that pool against the bare library and llama.cpp's own server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.llama.bare_rows import bare_rows
from tests.pooled import pooled
from tests.real.conftest import opened, serve_peer
from tests.real.peer import Peer
from tests.real.test_smollm2 import QUESTIONS, TEXTS
from tests.tiny_models import write_reranker
from worker_gguf.start.loaded import LoadedModel

pytestmark = pytest.mark.real

QUERY = "a cat sat"
DOCUMENTS = ["the dog", "the cat sat on the mat", "a mat", "dog cat dog", "on on on the mat a dog sat"]


@pytest.fixture(scope="module")
def embedder(smollm2_path: Path) -> Iterator[LoadedModel]:
    loaded = opened(smollm2_path, pooling="last", n_parallel=None, n_threads=1)
    yield loaded
    loaded.stop()


def test_the_last_rows_of_a_chat_model_equal_those_of_the_bare_library(
    embedder: LoadedModel, smollm2_path: Path
) -> None:
    texts = [*QUESTIONS, *TEXTS, " ".join(QUESTIONS * 4)]
    inputs = [embedder.vocabulary.tokenize(text, add_special=True, parse_special=False) for text in texts]
    assert max(map(len, inputs)) > embedder.plan.n_batch, "none is computed in parts"
    vectors = asyncio.run(pooled(embedder.engine, inputs))
    for vector, rows in zip(vectors, bare_rows(smollm2_path, inputs), strict=True):
        assert vector @ rows[-1] / np.linalg.norm(vector) / np.linalg.norm(rows[-1]) > 0.999


@pytest.fixture(scope="module")
def reranker_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker(tmp_path_factory.mktemp("reranker") / "reranker.gguf")


@pytest.fixture(scope="module")
def reranker_peer(reranker_path: Path, peer_command: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    yield from serve_peer(peer_command, reranker_path, tmp_path_factory.mktemp("peer"), 512, "--reranking")


def test_the_scores_of_a_ranker_equal_those_of_llama_server(reranker_path: Path, reranker_peer: Peer) -> None:
    loaded = opened(reranker_path, n_ctx=None, n_parallel=None, n_threads=1)
    cls, sep = 2, 3

    def words(text: str) -> list[int]:
        return loaded.vocabulary.tokenize(text, add_special=False, parse_special=False)

    # As llama-server writes a pair for this vocabulary, which adds no token for the end of a text.
    pairs = [[cls, *words(QUERY), sep, *words(document)] for document in DOCUMENTS]
    scores = asyncio.run(pooled(loaded.engine, pairs))
    loaded.stop()
    theirs = reranker_peer.ranked(QUERY, DOCUMENTS)
    assert np.ptp(theirs) > 0.05, "the scores do not depend on the documents"
    np.testing.assert_allclose([score[0] for score in scores], theirs, atol=1e-3)
