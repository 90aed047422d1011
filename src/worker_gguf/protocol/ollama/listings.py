"""Lists models in Ollama's form, and the version of its API."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.ollama.bodies import OllamaShow
from worker_gguf.protocol.ollama.times import rfc3339
from worker_gguf.protocol.route import Listed, Listing
from worker_gguf.protocol.validation import validated
from worker_gguf.protocol.wellformed import read_object

__all__ = ["PS", "SHOW", "TAGS", "VERSION", "VERSION_OF_API", "capabilities", "listed_name", "parameter_size"]

# The version of Ollama whose API these routes follow. Clients compare it with the one that a feature needs.
VERSION_OF_API: Final = "0.32.0"

# A model stays in memory until it makes room for another.
_NEVER: Final = "9999-12-31T23:59:59Z"
# Names of Ollama for what a model can do, where they differ from those of this worker.
_SAME_NAMES: Final = ("completion", "embedding", "vision")
# A template that turns thinking on or off, or writes earlier thinking, has one of these words.
_OF_THINKING: Final = ("<think>", "enable_thinking", "reasoning_content", "reasoning_effort", "thinking")
_UNITS: Final = ((1_000_000_000, "B", 1), (1_000_000, "M", 2), (1000, "K", 0))


def listed_name(card: ModelCard) -> str:
    """Return the name of a model with a tag. Clients put `:latest` after a name without one."""
    return card.id if ":" in card.id else f"{card.id}:latest"


def capabilities(card: ModelCard) -> list[str]:
    """Return what a model can do. Each model that generates can call tools here, also one that was not trained to."""
    names: list[str] = [name for name in _SAME_NAMES if name in card.capabilities]
    if card.generates:
        names.append("tools")
        if any(word in (card.chat_template or "") for word in _OF_THINKING):
            names.append("thinking")
    return names


def parameter_size(n_params: int) -> str:
    """Return a number of parameters such as `1.2B`, `134.52M` or `8B`."""
    for unit, letter, n_decimals in _UNITS:
        if n_params >= unit:
            digits = 0 if n_params % unit == 0 else n_decimals
            return f"{n_params / unit:.{digits}f}{letter}"
    return str(n_params)


def _tags(listed: Listed) -> dict[str, Any]:
    return {"models": [_entry(card) | {"capabilities": capabilities(card)} for card, _ in listed.models]}


def _ps(listed: Listed) -> dict[str, Any]:
    in_memory = [card for card, status in listed.models if status is None or status.value == "loaded"]
    return {"models": [_running(card) for card in in_memory]}


def _show(listed: Listed) -> dict[str, Any]:
    show = validated(OllamaShow, read_object(listed.body), {})
    card, _ = listed.named(show.model or show.name or None)
    return {
        "details": _details(card),
        "model_info": _model_info(card),
        "capabilities": capabilities(card),
        "modified_at": _modified(card),
        "parameters": "" if card.n_ctx is None else f"{'num_ctx':30} {card.n_ctx}",
        "template": card.chat_template or "",
    }


def _version(listed: Listed) -> dict[str, Any]:
    return {"version": VERSION_OF_API}


def _entry(card: ModelCard) -> dict[str, Any]:
    name = listed_name(card)
    return {
        "name": name,
        "model": name,
        "modified_at": _modified(card),
        "size": card.size_bytes or 0,
        "digest": _digest(card),
        "details": _details(card),
    }


def _running(card: ModelCard) -> dict[str, Any]:
    entry = _entry(card)
    del entry["modified_at"]
    context = {} if card.n_ctx is None else {"context_length": card.n_ctx}
    return entry | {"expires_at": _NEVER} | context


def _details(card: ModelCard) -> dict[str, Any]:
    family = card.architecture or ""
    details: dict[str, Any] = {
        "parent_model": card.parent or "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": "" if card.n_params is None else parameter_size(card.n_params),
        "quantization_level": card.quantization or "",
    }
    return details | _known({"context_length": _n_ctx(card), "embedding_length": card.n_embd})


def _model_info(card: ModelCard) -> dict[str, Any]:
    """Return the facts of a model under the keys of GGUF. The context length is that of a request here."""
    architecture = card.architecture
    own = {"context_length": _n_ctx(card), "embedding_length": card.n_embd, "vocab_size": card.n_vocab}
    general = {"architecture": architecture, "basename": card.id, "parameter_count": card.n_params}
    return {f"general.{key}": value for key, value in _known(general).items()} | {
        f"{architecture}.{key}": value for key, value in _known(own).items() if architecture
    }


def _n_ctx(card: ModelCard) -> int | None:
    return card.n_ctx or card.n_ctx_train


def _digest(card: ModelCard) -> str:
    """Return a digest of the model's facts. It stays the same for the same file, but it is not that of the file."""
    facts = (card.id, card.architecture, card.quantization, card.size_bytes)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _modified(card: ModelCard) -> str:
    return rfc3339(card.created * 1_000_000_000)


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


TAGS: Final = Listing(_tags)
PS: Final = Listing(_ps)
SHOW: Final = Listing(_show, OllamaShow)
VERSION: Final = Listing(_version)
