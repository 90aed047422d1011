"""Tests of bad input to the routes for vectors and scores, over HTTP: none of it may fail the requests of others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.e2e.test_embeddings import TEXTS, Served, serving, vectors
from tests.tiny_models import write_encoder, write_reranker
from worker_gguf.gguf import read_header

CAT, MAT = 6, 11  # token ids of the tiny encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(write_encoder(tmp_path_factory.mktemp("encoder") / "tiny-encoder.gguf")) as served:
        yield served


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(write_reranker(tmp_path_factory.mktemp("ranker") / "tiny-ranker.gguf")) as served:
        yield served


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An encoder in whose file the numbers of one token are not numbers."""
    path = write_encoder(tmp_path_factory.mktemp("broken") / "tiny-encoder.gguf")
    header = read_header(path)
    table = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    row = np.full(table.shape[0], np.nan, np.float32).tobytes()
    with path.open("r+b") as file:
        file.seek(table.offset + MAT * len(row))
        file.write(row)
    with serving(path) as served:
        yield served


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("", "input"),
        ([], "input"),
        (["cat", ""], "input.1"),
        ([[]], "input.0"),
        ([[CAT], []], "input.1"),
        (None, "input"),
        (5, "input"),
        ({"text": "cat"}, "input"),
        (["cat", 5], "input.1"),
        (["cat", [CAT]], "input.1"),
        ([CAT, "cat"], "input.1"),
        ([[CAT], "cat"], "input.1"),
        ([CAT, 1.5], "input.1"),
        ([CAT, True], "input.1"),
        ([-1], "input.0"),
        ([12], "input"),
        ([2**31 - 1], "input"),
        ([2**31], "input.0"),
        ([10**30], "input.0"),
        ([[CAT], [CAT, 12]], "input.1"),
        (["cat"] * 5000, "input"),
        ([[CAT]] * 5000, "input"),
    ],
)
def test_an_input_that_is_no_input_is_refused(encoder: Served, given: Any, param: str) -> None:
    refused = encoder.post("/v1/embeddings", {"input": given})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert len(vectors(encoder, TEXTS)) == len(TEXTS)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/rerank", {"query": "", "documents": ["cat"]}, "query"),
        ("/v1/rerank", {"query": "cat", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "cat"}, "documents"),
        ("/v1/rerank", {"query": "cat", "documents": ["cat", 5]}, "documents.1"),
        ("/v1/rerank", {"query": "cat", "documents": [{"title": "cat"}]}, "documents.0.text"),
        ("/v1/rerank", {"query": "cat", "documents": ["cat"] * 5000}, "documents"),
        ("/v1/rerank", {"query": ["cat"], "documents": ["cat"]}, "query"),
        ("/v1/rerank", {"query": "cat " * 600, "documents": ["cat"], "truncate": True}, "documents.0"),
        ("/v1/score", {"text_1": "cat", "text_2": []}, "text_2"),
        ("/v1/score", {"text_1": ["cat", "dog"], "text_2": ["cat"]}, "text_2"),
        ("/v1/score", {"text_1": "cat", "text_2": ["cat", None]}, "text_2.1"),
    ],
)
def test_documents_that_are_none_are_refused(ranker: Served, path: str, body: dict[str, Any], param: str) -> None:
    refused = ranker.post(path, body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_a_text_of_10_mb_is_refused_or_cut_while_others_are_answered(encoder: Served) -> None:
    text = "cat " * 2_500_000
    with ThreadPoolExecutor(4) as threads:
        refused = threads.submit(encoder.post, "/v1/embeddings", {"input": text})
        cut = threads.submit(encoder.post, "/v1/embeddings", {"input": text, "truncate": True})
        others = [vectors(encoder, TEXTS) for _ in range(8)]
    assert refused.result().json()["error"]["code"] == "context_length_exceeded"
    assert cut.result().json()["usage"]["prompt_tokens"] == 512
    assert all(len(other) == len(TEXTS) for other in others)


def test_a_word_of_10_mb_is_one_unknown_token(encoder: Served) -> None:
    assert encoder.post("/v1/embeddings", {"input": "x" * 10_000_000}).json()["usage"]["prompt_tokens"] == 3


def test_a_body_that_is_too_large_is_refused(encoder: Served) -> None:
    assert encoder.post("/v1/embeddings", {"input": "x" * 20_000_000}).status_code == 413


def test_a_wrong_id_does_not_fail_the_requests_beside_it(encoder: Served) -> None:
    expected = vectors(encoder, TEXTS)
    wrong = [[CAT] * 8, [CAT, 12]]
    with ThreadPoolExecutor(16) as threads:
        bad = [threads.submit(encoder.post, "/v1/embeddings", {"input": wrong}) for _ in range(32)]
        good = [threads.submit(vectors, encoder, TEXTS) for _ in range(32)]
    assert {reply.result().status_code for reply in bad} == {400}
    for found in good:
        assert np.allclose(found.result(), expected, atol=1e-3)


def test_numbers_that_are_none_fail_only_the_input_that_has_them(broken: Served) -> None:
    expected = vectors(broken, ["a cat sat", "the dog"])
    with ThreadPoolExecutor(16) as threads:
        bad = [threads.submit(broken.post, "/v1/embeddings", {"input": ["cat", "the mat"]}) for _ in range(16)]
        good = [threads.submit(vectors, broken, ["a cat sat", "the dog"]) for _ in range(32)]
    for reply in bad:
        assert reply.result().status_code == 500
        assert "finite" in reply.result().json()["error"]["message"]
    for found in good:
        assert np.allclose(found.result(), expected, atol=1e-3)
