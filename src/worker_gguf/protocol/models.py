"""Renders the answers of /v1/models and /v1/models/{id}."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

__all__ = ["ModelCard", "ModelStatus", "model_body", "models_body"]


class ModelCard(Struct, frozen=True):
    """The public facts of a model. None means unknown. `n_ctx` is the context size of one request, in tokens.

    `capabilities` has "completion", "embedding", "rerank" or "vision": llama-server's names if it has one.
    """

    id: str
    created: int
    owned_by: str = "worker-gguf"
    aliases: tuple[str, ...] = ()
    n_ctx: int | None = None
    n_ctx_train: int | None = None
    n_vocab: int | None = None
    n_embd: int | None = None
    n_params: int | None = None
    size_bytes: int | None = None
    quantization: str | None = None
    architecture: str | None = None
    capabilities: tuple[str, ...] = ("completion",)

    @property
    def generates(self) -> bool:
        return "completion" in self.capabilities


class ModelStatus(Struct, frozen=True):
    """The state of one of several models: `failed`, or as in llama-server's router `unloaded`, `loading`, `loaded`."""

    value: str
    reason: str | None = None


def model_body(card: ModelCard, status: ModelStatus | None = None) -> dict[str, Any]:
    """Render a model in OpenAI's form. Other facts are under `meta`, with llama-server's names if it has one."""
    meta: dict[str, Any] = {
        "aliases": list(card.aliases),
        "architecture": card.architecture,
        "capabilities": list(card.capabilities),
        "n_ctx": card.n_ctx,
        "n_ctx_train": card.n_ctx_train,
        "n_embd": card.n_embd,
        "n_params": card.n_params,
        "n_vocab": card.n_vocab,
        "quantization": card.quantization,
        "size": card.size_bytes,
    }
    body = {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": card.owned_by,
        "meta": {name: value for name, value in meta.items() if value is not None},
    }
    if status is not None:
        failed = {"failed": True, "reason": status.reason} if status.value == "failed" else {}
        body["status"] = {"value": status.value, **failed}
    return body


def models_body(models: Iterable[tuple[ModelCard, ModelStatus | None]]) -> dict[str, Any]:
    """Render the list of models in OpenAI's form."""
    return {"object": "list", "data": [model_body(card, status) for card, status in models]}
