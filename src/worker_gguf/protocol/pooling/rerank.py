"""POST /v1/rerank in the forms of Jina's, Cohere's and Text Embeddings Inference's APIs."""

from __future__ import annotations

from typing import Final

from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.pooling.bodies import RerankBody
from worker_gguf.protocol.pooling.calls import Pair, PooledAnswer, PoolingCall, Truncation
from worker_gguf.protocol.pooling.common import shared
from worker_gguf.protocol.pooling.vectors import relevance
from worker_gguf.protocol.rendering import JsonBody
from worker_gguf.protocol.route import Pooling
from worker_gguf.protocol.validation import invalid, required, validated
from worker_gguf.protocol.wellformed import read_object

__all__ = ["RERANK", "RerankCall", "parse_rerank", "render_rerank"]


class RerankCall(PoolingCall, frozen=True, kw_only=True):
    """A parsed request. `top_n` None returns all documents. `is_list` wants the form of Text Embeddings Inference."""

    top_n: int | None = None
    shows_documents: bool = False
    is_raw: bool = False
    is_list: bool = False


def parse_rerank(body: object, defaults: Defaults) -> RerankCall:
    """Parse the body of POST /v1/rerank. Raises InvalidRequest."""
    fields = read_object(body)
    checked = validated(RerankBody, fields, {})
    if checked.documents is not None and checked.texts is not None:
        raise invalid("texts", "excludes documents, which is the same")
    param = "documents" if checked.texts is None else "texts"
    documents = _documents(checked) if checked.texts is None else checked.texts
    common = shared(checked, fields, defaults)
    if (most := checked.max_tokens_per_doc) is not None:
        if common["truncation"] is not None:
            raise invalid("max_tokens_per_doc", "excludes truncate and truncate_prompt_tokens")
        common["truncation"] = Truncation("end", most)
    return RerankCall(
        inputs=tuple(Pair(checked.query, document) for document in documents),
        param=param,
        top_n=checked.top_n,
        shows_documents=bool(checked.return_documents or checked.return_text),
        is_raw=bool(checked.raw_scores),
        is_list=checked.texts is not None,
        **common,
    )


def render_rerank(call: RerankCall, answer: PooledAnswer) -> JsonBody:
    """Render the documents, the most relevant first. Equal ones keep their order."""
    scores = [relevance(values, answer.card, is_raw=call.is_raw) for values in answer.values]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: call.top_n]
    documents = [pair.document for pair in call.inputs if isinstance(pair, Pair)]
    if call.is_list:
        shown = [{"text": documents[index]} if call.shows_documents else {} for index in order]
        return [{"index": index, "score": scores[index], **text} for index, text in zip(order, shown, strict=True)]
    results = [
        {"index": index, "relevance_score": scores[index]}
        | ({"document": {"text": documents[index]}} if call.shows_documents else {})
        for index in order
    ]
    n_tokens = sum(answer.n_tokens)
    return {
        "id": answer.heading.id,
        "object": "list",
        "model": answer.heading.model,
        "results": results,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        # Of Cohere's form.
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }


def _documents(body: RerankBody) -> list[str]:
    if body.documents is None:
        raise required("documents")
    return [_document(f"documents.{place}", document) for place, document in enumerate(body.documents)]


def _document(param: str, document: object) -> str:
    text, at = (document.get("text"), f"{param}.text") if isinstance(document, dict) else (document, param)
    if not isinstance(text, str):
        raise invalid(at, "must be a text" if at != param else "must be a text, or an object with a text")
    return text


RERANK: Final = Pooling("rerank-", ("rerank",), RerankBody, parse_rerank, render_rerank)
