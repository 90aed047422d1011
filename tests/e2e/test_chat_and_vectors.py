"""Tests of a worker that chats, makes vectors and ranks with several models at once, over HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_embeddings import TEXTS, Served, serving
from tests.tiny_models import write_encoder, write_reranker

MODELS = ("chat", "vectors", "ranks")


def settings(folder: Path, most: int) -> dict[str, Any]:
    entries = [
        {"alias": "chat", "model": "embedded", "n_ctx": 512, "n_parallel": 2},
        {"alias": "vectors", "model": str(write_encoder(folder / "encoder.gguf"))},
        {"alias": "ranks", "model": str(write_reranker(folder / "ranker.gguf"))},
    ]
    return {
        "models": json.dumps(entries),
        "models_max": most,
        "model_min_residence_s": 0.05,
        "model_turn_s": 0.1,
    }


@pytest.fixture(scope="module", params=[1, 3])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, int]]:
    """A worker with room for one model or for all of them."""
    most: int = request.param
    with serving(**settings(tmp_path_factory.mktemp("models"), most)) as made:
        yield made, most


def ask(served: Served, name: str | None, kind: str = "") -> Any:
    """Send the request that the model of a name can answer, without a name if it is None."""
    requests: dict[str, tuple[str, dict[str, object]]] = {
        "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}),
        "vectors": ("/v1/embeddings", {"input": TEXTS}),
        "ranks": ("/v1/rerank", {"query": "cat", "documents": TEXTS}),
    }
    path, body = requests[kind or str(name)]
    reply = served.post(path, body if name is None else {**body, "model": name})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_the_list_says_what_each_can_do(served: tuple[Served, int]) -> None:
    ask(served[0], "vectors")
    listed = served[0].client.models.list().data
    assert [(model.id, model.meta["capabilities"]) for model in listed] == [  # type: ignore[attr-defined]
        ("chat", ["completion"]),
        ("vectors", ["embedding"]),
        ("ranks", ["rerank"]),
    ]


def test_each_request_is_answered_by_the_model_that_it_names(served: tuple[Served, int]) -> None:
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda name: ask(served[0], name), MODELS * 8))
    assert [answer["model"] for answer in answers] == list(MODELS * 8)
    for answer in answers[1::3]:
        assert [math.hypot(*item["embedding"]) for item in answer["data"]] == pytest.approx([1] * len(TEXTS))
    orders = {tuple(result["index"] for result in answer["results"]) for answer in answers[2::3]}
    assert len(orders) == 1


def test_without_a_name_the_first_model_that_can_do_it_answers(served: tuple[Served, int]) -> None:
    assert [ask(served[0], None, kind)["model"] for kind in MODELS] == list(MODELS)
    answer = served[0].post("/api/embed", {"input": "cat"}).json()
    assert answer["model"] == "vectors"
    assert 0 < answer["load_duration"] < answer["total_duration"]


def test_a_model_that_cannot_do_it_is_refused_without_a_load(served: tuple[Served, int]) -> None:
    before = loads(served[0])
    refused = served[0].post("/v1/embeddings", {"model": "chat", "input": "cat"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
    assert "it can do: completion" in refused.json()["error"]["message"]
    assert loads(served[0]) == before


def test_the_metrics_count_loads_and_requests(served: tuple[Served, int]) -> None:
    made, most = served
    for name in MODELS * 2:
        ask(made, name)
    counted = loads(made)
    if most == 1:
        assert all(n > 1 for n in counted.values())
    else:
        assert counted == dict.fromkeys(MODELS, 1)
    text = made.metrics.render().decode()
    for route in ("/v1/chat/completions", "/v1/embeddings", "/v1/rerank"):
        assert f'route="{route}"' in text


def loads(served: Served) -> dict[str, float]:
    """Return how often each model was loaded."""
    lines = served.metrics.render().decode().splitlines()
    found = (line for line in lines if line.startswith("worker_gguf_model_loads_total{"))
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in found}
