"""Tests of the bodies and answers of /v1/rerank and /v1/score."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.pooling.calls import Pair, PooledAnswer, Truncation
from worker_gguf.protocol.pooling.rerank import RerankCall, parse_rerank, render_rerank
from worker_gguf.protocol.pooling.score import ScoreCall, parse_score, render_score
from worker_gguf.protocol.rendering import Heading, JsonBody

RANKER = ModelCard("r", 1, architecture="bert", capabilities=("rerank",))
EMBEDDER = ModelCard("e", 1, architecture="bert", capabilities=("embedding",))
HEADING = Heading("rerank-1", 1, "r", "fp")
DOCUMENTS = ["bad", "good", "fair"]
LOGITS = ((-2.0,), (3.0,), (0.0,))


def parsed(**fields: Any) -> RerankCall:
    return parse_rerank({"query": "q", "documents": DOCUMENTS, **fields}, Defaults())


def ranked(card: ModelCard = RANKER, **fields: Any) -> JsonBody:
    return render_rerank(parsed(**fields), PooledAnswer(HEADING, card, LOGITS, [4, 5, 6]))


def scored(card: ModelCard, values: tuple[tuple[float, ...], ...], **fields: Any) -> list[float]:
    call = parse_score({"text_1": "a", "text_2": "b", **fields}, Defaults())
    body = render_score(call, PooledAnswer(HEADING, card, values, [1] * len(values)))
    return [item["score"] for item in body["data"]]


def test_documents_are_texts_or_objects_with_a_text() -> None:
    assert parsed(documents=["a", {"text": "b", "id": 5}]).inputs == (Pair("q", "a"), Pair("q", "b"))


def test_the_most_relevant_document_comes_first_with_a_score_from_0_to_1() -> None:
    results = ranked()["results"]
    assert [result["index"] for result in results] == [1, 2, 0]
    assert [round(result["relevance_score"], 3) for result in results] == [0.953, 0.5, 0.119]
    assert "document" not in results[0]


def test_fewer_documents_and_their_texts() -> None:
    (result,) = ranked(top_n=1, return_documents=True)["results"]
    assert result["document"] == {"text": "good"}


def test_raw_scores_and_probabilities_stay_as_they_are() -> None:
    assert [result["relevance_score"] for result in ranked(raw_scores=True)["results"]] == [3.0, 0.0, -2.0]
    qwen = ModelCard("r", 1, architecture="qwen3", capabilities=("rerank",))
    assert ranked(qwen)["results"][0]["relevance_score"] == 3.0


def test_the_form_of_text_embeddings_inference_is_a_list() -> None:
    assert ranked(documents=None, texts=DOCUMENTS, return_text=True, raw_scores=True) == [
        {"index": 1, "score": 3.0, "text": "good"},
        {"index": 2, "score": 0.0, "text": "fair"},
        {"index": 0, "score": -2.0, "text": "bad"},
    ]


def test_the_usage_counts_all_pairs() -> None:
    assert ranked()["usage"] == {"prompt_tokens": 15, "total_tokens": 15}


def test_coheres_limit_cuts_documents() -> None:
    assert parsed(max_tokens_per_doc=64).truncation == Truncation("end", 64)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"documents": None}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": [5]}, "documents.0"),
        ({"documents": ["a", {"title": "b"}]}, "documents.1.text"),
        ({"texts": ["a"]}, "texts"),
        ({"top_n": 0}, "top_n"),
        ({"max_tokens_per_doc": 5, "truncate": True}, "max_tokens_per_doc"),
    ],
)
def test_the_error_names_the_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(**fields)
    assert refused.value.param == param


def test_a_score_of_a_ranker_is_a_relevance() -> None:
    assert scored(RANKER, ((0.0,),)) == [0.5]
    assert scored(RANKER, ((2.0,), (-1.0,)), text_2=["b", "c"], raw_scores=True) == [2.0, -1.0]


def test_a_score_of_vectors_is_their_cosine() -> None:
    values = ((1.0, 0.0), (3.0, 0.0), (1.0, 0.0), (0.0, 5.0), (1.0, 0.0), (0.0, 0.0))
    assert scored(EMBEDDER, values, text_2=["b", "c", "d"]) == [1.0, 0.0, 0.0]


def test_texts_are_compared_one_by_one_or_one_with_all() -> None:
    def inputs(left: Any, right: Any) -> ScoreCall:
        return parse_score({"text_1": left, "text_2": right}, Defaults())

    assert inputs("a", ["b", "c"]).inputs == (Pair("a", "b"), Pair("a", "c"))
    assert inputs(["a", "x"], ["b", "c"]).inputs == (Pair("a", "b"), Pair("x", "c"))
    for left, right, param in (["a", "b"], ["c"], "text_2"), (["a", ""], ["b", "c"], "text_1.1"), ("a", [], "text_2"):
        with pytest.raises(InvalidRequest) as refused:
            inputs(left, right)
        assert refused.value.param == param
