"""Lists models in OpenAI's form."""

from __future__ import annotations

from typing import Any, Final

from worker_gguf.protocol.models import ModelCard, ModelStatus
from worker_gguf.protocol.route import Listed, Listing

__all__ = ["MODEL", "MODELS", "model_body"]


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
        "adapters": [adapter.name for adapter in card.adapters] or None,
        "adapter": None if card.adapter is None else {"name": card.adapter.name, "scale": card.adapter.scale},
    }
    body = {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": card.owned_by,
        "meta": {name: value for name, value in meta.items() if value is not None},
    }
    if card.parent is not None:  # as vLLM lists an adapter
        body |= {"root": card.parent, "parent": card.parent}
    if status is not None:
        failed = {"failed": True, "reason": status.reason} if status.value == "failed" else {}
        body["status"] = {"value": status.value, **failed}
    return body


def _models(listed: Listed) -> dict[str, Any]:
    body = {"object": "list", "data": [model_body(card, status) for card, status in listed.models]}
    # Codex reads its own description of each model from this field, and fails where the field is missing.
    return body | {"models": []} if "client_version" in listed.query else body


def _model(listed: Listed) -> dict[str, Any]:
    return model_body(*listed.named(listed.name))


MODELS: Final = Listing(_models)
MODEL: Final = Listing(_model)
