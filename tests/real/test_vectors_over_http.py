"""Vectors and ranks over HTTP: against BERT in numpy, and against llama.cpp's own server on the same files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tokenizers
from numpy.typing import NDArray

from bench import minilm
from tests.real.bert import Bert
from tests.real.conftest import found, serve_peer, worker_client
from tests.real.peer import Peer
from tests.real.test_pooling import DOCUMENTS, QUERY
from tests.real.texts import texts
from tests.tiny_models import write_reranker

pytestmark = pytest.mark.real

TEXTS = texts()
# What llama.cpp's converter writes for BERT's vocabulary.
STATED = {"bos": True, "eos": True, "sep": False}


@pytest.fixture(scope="module")
def folder() -> Path:
    return found(minilm.FOLDER)


@pytest.fixture(scope="module")
def path(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return minilm.write(folder, tmp_path_factory.mktemp("minilm") / "all-minilm-l6-v2.gguf")


@pytest.fixture(scope="module")
def client(path: Path) -> Iterator[openai.OpenAI]:
    with worker_client(path, N_THREADS="1") as made:
        yield made


@pytest.fixture(scope="module")
def peer(path: Path, peer_command: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    yield from serve_peer(peer_command, path, tmp_path_factory.mktemp("peer"), 512, "--embedding")


@pytest.fixture(scope="module")
def rankers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same ranker twice: its file states which tokens stand around two texts, or it does not."""
    folder = tmp_path_factory.mktemp("rankers")
    stated = write_reranker(folder / "stated.gguf", adds=STATED)
    return {"stated": stated, "unstated": write_reranker(folder / "unstated.gguf")}


@pytest.fixture(scope="module")
def ranking_peer(
    rankers: dict[str, Path], peer_command: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    yield from serve_peer(peer_command, rankers["stated"], tmp_path_factory.mktemp("peer"), 512, "--reranking")


def vectors(client: openai.OpenAI, given: Sequence[str]) -> NDArray[np.float64]:
    made = client.embeddings.create(model=minilm.FOLDER, input=list(given))
    return np.array([item.embedding for item in made.data], np.float64)


def test_vectors_of_texts_equal_those_of_numpy(client: openai.OpenAI, folder: Path) -> None:
    published = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    published.no_padding()
    published.no_truncation()
    bert = Bert(folder)
    expected = np.array([bert.vector(published.encode(text).ids) for text in TEXTS])
    together = np.concatenate([vectors(client, TEXTS[at : at + 64]) for at in range(0, len(TEXTS), 64)])
    assert (together * expected).sum(axis=1).min() > 0.9999
    alone = np.concatenate([vectors(client, [text]) for text in TEXTS[::20]])
    assert (alone * expected[::20]).sum(axis=1).min() > 0.9999


def test_vectors_equal_those_of_llama_server(client: openai.OpenAI, peer: Peer) -> None:
    some = [text for text in TEXTS[::5] if text.isascii()]
    theirs = np.array([item["embedding"] for item in peer.post("/v1/embeddings", {"input": some})["data"]])
    assert (vectors(client, some) * theirs).sum(axis=1).min() > 0.9999


@pytest.mark.parametrize("name", ["stated", "unstated"])
def test_scores_are_those_of_llama_server_on_a_file_that_states_the_form_of_a_pair(
    rankers: dict[str, Path], ranking_peer: Peer, name: str
) -> None:
    with worker_client(rankers[name], N_THREADS="1") as client:
        body = {"query": QUERY, "documents": DOCUMENTS, "raw_scores": True}
        answer: Any = client.post("/rerank", body=body, cast_to=object)
    scores = {result["index"]: result["relevance_score"] for result in answer["results"]}
    theirs = ranking_peer.ranked(QUERY, DOCUMENTS)
    assert np.ptp(theirs) > 0.05, "the scores do not depend on the documents"
    np.testing.assert_allclose([scores[index] for index in range(len(DOCUMENTS))], theirs, atol=1e-3)
