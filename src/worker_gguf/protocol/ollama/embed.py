"""The two routes of Ollama's API for vectors: embed, and the older embeddings, which has one text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from worker_gguf.protocol.calls import Defaults, ReadyCall
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.ollama.bodies import OllamaEmbed, OllamaEmbeddings, OllamaVectors
from worker_gguf.protocol.ollama.times import nanoseconds
from worker_gguf.protocol.pooling.calls import PooledAnswer, PoolingCall, Truncation
from worker_gguf.protocol.pooling.embeddings import EmbeddingsCall, check_dimensions
from worker_gguf.protocol.pooling.vectors import finished
from worker_gguf.protocol.route import Pooling
from worker_gguf.protocol.screening import effectless
from worker_gguf.protocol.validation import invalid, validated
from worker_gguf.protocol.wellformed import read_object

__all__ = ["EMBED", "EMBEDDINGS", "parse_embed", "parse_embeddings", "render_embed", "render_embeddings"]


def parse_embed(body: object, defaults: Defaults) -> EmbeddingsCall | ReadyCall:
    """Parse the body of POST /api/embed. Raises InvalidRequest."""
    fields = read_object(body)
    embed = validated(OllamaEmbed, fields, {})
    ignored = _ignored(embed, fields, defaults)
    texts = _texts(embed.input)
    model = embed.model or None  # as in the other routes, an empty name is none
    if not texts:
        return ReadyCall(model=model, ignored=ignored, answer=partial(_loaded_embed, model))
    truncation = None if embed.truncate is False else Truncation()
    return EmbeddingsCall(
        inputs=tuple(texts),
        param="input",
        model=model,
        truncation=truncation,
        priority=embed.priority or 0,
        timeout_s=embed.timeout,
        ignored=ignored,
        dimensions=embed.dimensions or None,
    )


def parse_embeddings(body: object, defaults: Defaults) -> PoolingCall | ReadyCall:
    """Parse the body of POST /api/embeddings. Raises InvalidRequest."""
    fields = read_object(body)
    embeddings = validated(OllamaEmbeddings, fields, {})
    ignored = _ignored(embeddings, fields, defaults)
    model = embeddings.model or None
    if not embeddings.prompt:
        return ReadyCall(model=model, ignored=ignored, answer=_loaded_embeddings)
    return PoolingCall(
        inputs=(embeddings.prompt,),
        param="prompt",
        model=model,
        truncation=Truncation() if embeddings.truncate else None,
        priority=embeddings.priority or 0,
        timeout_s=embeddings.timeout,
        ignored=ignored,
    )


def render_embed(call: EmbeddingsCall, answer: PooledAnswer) -> dict[str, Any]:
    """Render vectors of length 1."""
    return {
        "model": call.model or answer.heading.model,
        "embeddings": [list(finished(vector, call.dimensions)) for vector in answer.values],
        "total_duration": nanoseconds(answer.seconds),
        "load_duration": nanoseconds(answer.load_seconds),
        "prompt_eval_count": sum(answer.n_tokens),
    }


def render_embeddings(call: PoolingCall, answer: PooledAnswer) -> dict[str, Any]:
    """Render the only vector as the model gives it, as Ollama does on this route."""
    (vector,) = answer.values
    return {"embedding": list(vector)}


def _texts(given: str | list[Any] | None) -> list[str]:
    if not given:
        return []
    if isinstance(given, str):
        return [given]
    for place, text in enumerate(given):
        if not isinstance(text, str):
            raise invalid(f"input.{place}", "must be a text")
    return given


def _ignored(body: OllamaVectors, fields: Mapping[str, Any], defaults: Defaults) -> tuple[str, ...]:
    """Return the names of fields and options without effect. Raises UnsupportedParameter with STRICT_PARAMETERS."""
    names = {name for name in fields if name not in type(body).model_fields} | ({"keep_alive"} & fields.keys())
    names |= {f"options.{option}" for option, value in (body.options or {}).items() if value is not None}
    return effectless(names, defaults)


def _loaded_embed(model: str | None, card: ModelCard) -> dict[str, Any]:
    return {"model": model or card.id, "embeddings": []}


def _loaded_embeddings(card: ModelCard) -> dict[str, Any]:
    return {"embedding": []}


EMBED: Final = Pooling("embd-", ("embedding",), OllamaEmbed, parse_embed, render_embed, check_dimensions)
EMBEDDINGS: Final = Pooling("embd-", ("embedding",), OllamaEmbeddings, parse_embeddings, render_embeddings)
