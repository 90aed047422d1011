"""Tests of vectors and scores from end to end: an encoder, a ranker and a decoder that pools, over HTTP."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.tiny_models import write_encoder, write_reranker
from worker_gguf.http.app import create_app
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread
from worker_gguf.observe.metrics import Metrics
from worker_gguf.queue.batch_job import BatchLimits
from worker_gguf.queue.handler import make_handler
from worker_gguf.settings import Settings
from worker_gguf.worker import Worker

TEXTS = ["a cat sat on the mat", "the dog", "on the mat a dog sat", "cat"]


@dataclass(frozen=True)
class Served:
    url: str
    metrics: Metrics
    worker: Worker

    def post(self, path: str, body: object) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=60)

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)


@contextmanager
def serving(model: Path | str | None = None, **settings: object) -> Iterator[Served]:
    """Serve one model over HTTP, or with `models` several."""
    metrics = Metrics("test")
    models = settings if model is None else {"model": str(model), **settings}
    worker = Worker(Settings(n_threads=1, **models), metrics)  # type: ignore[arg-type]
    worker.start()
    app = create_app(worker, api_keys=(), max_body_bytes=1 << 24, metrics=metrics)
    with ServerThread(app, bind("127.0.0.1", 0)) as server:
        asyncio.run(worker.wait_ready())
        yield Served(server.url, metrics, worker)
    worker.stop()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(write_encoder(tmp_path_factory.mktemp("encoder") / "tiny-encoder.gguf")) as served:
        yield served


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(write_reranker(tmp_path_factory.mktemp("ranker") / "tiny-ranker.gguf")) as served:
        yield served


def vectors(served: Served, texts: list[str] | str, **fields: object) -> list[list[float]]:
    made = served.client.embeddings.create(model="tiny-encoder", input=texts, **fields)  # type: ignore[arg-type]
    return [item.embedding for item in made.data]


def test_a_text_has_the_same_vector_alone_and_among_others(encoder: Served) -> None:
    together = vectors(encoder, TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        (alone,) = vectors(encoder, text)
        assert alone == pytest.approx(vector, abs=1e-5)
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)
    assert together[0] != pytest.approx(together[1], abs=1e-3)


def test_numbers_and_base64_are_the_same_vectors(encoder: Served) -> None:
    # OpenAI's client asks for base64 unless it is told otherwise.
    assert vectors(encoder, TEXTS) == [
        pytest.approx(vector, abs=1e-6) for vector in vectors(encoder, TEXTS, encoding_format="float")
    ]


def test_requests_that_come_together_get_their_own_vectors(encoder: Served) -> None:
    expected = dict(zip(TEXTS, vectors(encoder, TEXTS), strict=True))
    with ThreadPoolExecutor(16) as threads:
        asked = TEXTS * 16
        for text, (vector,) in zip(asked, threads.map(lambda text: vectors(encoder, text), asked), strict=True):
            assert vector == pytest.approx(expected[text], abs=1e-5)


def test_a_long_text_is_refused_or_cut_as_asked(encoder: Served) -> None:
    long = "cat " * 2000
    refused = encoder.post("/v1/embeddings", {"input": ["cat", long]})
    assert refused.status_code == 400
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == ("context_length_exceeded", "input.1")
    cut = encoder.post("/v1/embeddings", {"input": ["cat", long], "truncate": True})
    n_ctx = encoder.client.models.retrieve("tiny-encoder").meta["n_ctx"]  # type: ignore[attr-defined]
    assert cut.json()["usage"]["prompt_tokens"] == 3 + n_ctx


def test_fewer_dimensions(encoder: Served) -> None:
    ((first, second),) = vectors(encoder, "cat", dimensions=2)
    assert math.hypot(first, second) == pytest.approx(1, abs=1e-5)
    assert encoder.post("/v1/embeddings", {"input": "cat", "dimensions": 5000}).json()["error"]["param"] == "dimensions"


def test_the_cosine_is_the_score_of_vectors(encoder: Served) -> None:
    left, right = vectors(encoder, TEXTS[:2])
    (item,) = encoder.post("/v1/score", {"text_1": TEXTS[0], "text_2": TEXTS[1]}).json()["data"]
    assert item["score"] == pytest.approx(sum(a * b for a, b in zip(left, right, strict=True)), abs=1e-5)


def test_an_encoder_ranks_and_writes_nothing(encoder: Served) -> None:
    for path, body in (
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ):
        refused = encoder.post(path, body)
        assert refused.status_code == 400
        assert "it can do: embedding" in refused.json()["error"]["message"]


def test_the_metrics_count_the_tokens(encoder: Served) -> None:
    encoder.post("/v1/embeddings", {"input": TEXTS})
    assert 'route="/v1/embeddings"' in encoder.metrics.render().decode()


def test_documents_are_ranked_by_their_scores(ranker: Served) -> None:
    body = {"query": "cat", "documents": TEXTS}
    results = ranker.post("/v1/rerank", body).json()["results"]
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert {result["index"] for result in results} == {0, 1, 2, 3}
    alone = {place: _score(ranker, "cat", text) for place, text in enumerate(TEXTS)}
    assert {result["index"]: result["relevance_score"] for result in results} == pytest.approx(alone, abs=1e-5)
    for path in ("/rerank", "/v2/rerank", "/v1/reranking", "/reranking"):
        again = ranker.post(path, body).json()["results"]
        assert [result["index"] for result in again] == [result["index"] for result in results]


def test_the_list_of_text_embeddings_inference(ranker: Served) -> None:
    listed = ranker.post("/rerank", {"query": "cat", "texts": TEXTS, "return_text": True}).json()
    assert {item["text"] for item in listed} == set(TEXTS)


def test_a_decoder_pools_where_it_is_told_to() -> None:
    with serving("embedded", pooling="last", n_ctx=256) as served:
        (model,) = served.client.models.list().data
        assert model.meta["capabilities"] == ["embedding"]  # type: ignore[attr-defined]
        first, again, other = (
            item.embedding
            for item in served.client.embeddings.create(
                model=model.id, input=["What is it?", "What is it?", "Tell me a story."]
            ).data
        )
        assert first == pytest.approx(again, abs=1e-5)
        assert first != pytest.approx(other, abs=1e-2)


def test_ollamas_routes_give_the_same_vectors(encoder: Served) -> None:
    expected = vectors(encoder, TEXTS)
    answer = encoder.post("/api/embed", {"model": "tiny-encoder:latest", "input": TEXTS, "keep_alive": "5m"})
    assert answer.headers["x-ignored-parameters"] == "keep_alive"
    body = answer.json()
    assert body["model"] == "tiny-encoder:latest"
    assert [pytest.approx(vector, abs=1e-5) for vector in body["embeddings"]] == expected
    assert body["prompt_eval_count"] == sum(len(text.split()) + 2 for text in TEXTS)
    assert body["total_duration"] > body["load_duration"] == 0
    older = encoder.post("/api/embeddings", {"prompt": TEXTS[0]}).json()["embedding"]
    length = math.hypot(*older)
    assert [number / length for number in older] == pytest.approx(expected[0], abs=1e-5)
    assert length != pytest.approx(1, abs=1e-2)
    assert encoder.post("/api/embed", {"input": []}).json() == {"model": "tiny-encoder", "embeddings": []}


def test_ollama_cuts_a_long_text_unless_it_is_told_not_to(encoder: Served) -> None:
    long = "cat " * 2000
    n_ctx = encoder.client.models.retrieve("tiny-encoder").meta["n_ctx"]  # type: ignore[attr-defined]
    assert encoder.post("/api/embed", {"input": long}).json()["prompt_eval_count"] == n_ctx
    for path, body in (("/api/embed", {"input": long, "truncate": False}), ("/api/embeddings", {"prompt": long})):
        refused = encoder.post(path, body)
        assert (refused.status_code, refused.json().keys()) == (400, {"error"})
        assert f"maximum context length is {n_ctx} tokens" in refused.json()["error"]


def test_ollamas_routes_need_a_model_that_makes_vectors(ranker: Served) -> None:
    refused = ranker.post("/api/embed", {"input": "a"})
    assert (refused.status_code, refused.json().keys()) == (400, {"error"})
    assert "it can do: rerank" in refused.json()["error"]


def test_jobs_of_the_queue_reach_these_routes(encoder: Served, ranker: Served) -> None:
    expected = vectors(encoder, TEXTS)
    (answer,) = _job(encoder, {"openai_route": "/v1/embeddings", "openai_input": {"input": TEXTS}})
    assert [item["embedding"] for item in answer["data"]] == [pytest.approx(vector, abs=1e-5) for vector in expected]
    (of_ollama,) = _job(encoder, {"route": "/api/embed", "method": "POST", "body": {"input": TEXTS}})
    assert of_ollama["embeddings"] == [pytest.approx(vector, abs=1e-5) for vector in expected]
    (ranks,) = _job(ranker, {"route": "/v1/rerank", "body": {"query": "cat", "documents": TEXTS}})
    assert len(ranks["results"]) == len(TEXTS)
    (failed,) = _job(encoder, {"route": "/api/embed", "body": {"input": 5}})
    assert "must be a string or a list" in str(failed)


def _job(served: Served, given: dict[str, Any]) -> list[Any]:
    async def run() -> list[Any]:
        handler = make_handler(served.worker, served.metrics, BatchLimits(4))
        return [item async for item in handler({"id": "job", "input": given})]

    return asyncio.run(run())


def _score(served: Served, query: str, document: str) -> float:
    (item,) = served.post("/v1/score", {"text_1": query, "text_2": document}).json()["data"]
    score: float = item["score"]
    return score
