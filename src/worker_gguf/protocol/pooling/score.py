"""POST /v1/score in vLLM's form: how well texts match, by a ranker, or by the angle between two vectors."""

from __future__ import annotations

from typing import Any, Final

from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.pooling.bodies import MAX_INPUTS, ScoreBody
from worker_gguf.protocol.pooling.calls import Pair, PooledAnswer, PoolingCall
from worker_gguf.protocol.pooling.common import check_texts, shared
from worker_gguf.protocol.pooling.vectors import cosine, relevance
from worker_gguf.protocol.route import Pooling
from worker_gguf.protocol.validation import invalid, validated
from worker_gguf.protocol.wellformed import read_object

__all__ = ["SCORE", "ScoreCall", "parse_score", "render_score"]


class ScoreCall(PoolingCall, frozen=True, kw_only=True):
    """A parsed request."""

    is_raw: bool = False


def parse_score(body: object, defaults: Defaults) -> ScoreCall:
    """Parse the body of POST /v1/score. Raises InvalidRequest."""
    fields = read_object(body)
    checked = validated(ScoreBody, fields, {})
    left, right = ([texts] if isinstance(texts, str) else texts for texts in (checked.text_1, checked.text_2))
    check_texts("text_1", left)
    check_texts("text_2", right)
    if len(left) == 1:
        left *= len(right)
    if len(left) != len(right):
        raise invalid("text_2", f"must have as many texts as text_1, which has {len(left)}, not {len(right)}")
    assert len(left) <= MAX_INPUTS
    pairs = tuple(Pair(query, document) for query, document in zip(left, right, strict=True))
    return ScoreCall(inputs=pairs, param="text_2", is_raw=bool(checked.raw_scores), **shared(checked, fields, defaults))


def render_score(call: ScoreCall, answer: PooledAnswer) -> dict[str, Any]:
    """Render the score of each pair: its relevance, or the cosine of the angle between its vectors."""
    values = answer.values
    if answer.ranks:
        scores = [relevance(scores, answer.card, is_raw=call.is_raw) for scores in values]
    else:
        scores = [cosine(values[place], values[place + 1]) for place in range(0, len(values), 2)]
    n_tokens = sum(answer.n_tokens)
    return {
        "id": answer.heading.id,
        "object": "list",
        "created": answer.heading.created,
        "model": answer.heading.model,
        "data": [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)],
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }


SCORE: Final = Pooling("score-", ("rerank", "embedding"), ScoreBody, parse_score, render_score)
