"""The public state of each model, for /v1/models, /health and the metrics."""

from __future__ import annotations

from typing import Any, Final

from worker_gguf.errors import WorkerError
from worker_gguf.fleet.model import FleetModel
from worker_gguf.fleet.residence import Place, State
from worker_gguf.observe.metrics import ModelCounts
from worker_gguf.protocol.models import ModelStatus
from worker_gguf.start.loaded import describe_model
from worker_gguf.start.model_card import names_private

__all__ = ["counts_of", "describe", "public", "status_of"]

# Clients see the states of llama-server; /health shows those of this worker.
_VALUES: Final[dict[State, str]] = {
    "unloaded": "unloaded",
    "fetching": "loading",
    "loading": "loading",
    "loaded": "loaded",
    "unloading": "unloaded",
    "failed": "failed",
}


def public(name: str, why: WorkerError) -> WorkerError:
    """Return the error of a model for clients. A message that has a path or a URL stays in the log only."""
    if not names_private(why.message):
        return why
    return type(why)(
        f"The model {name!r} could not be brought up ({why.code}). The worker's log has the reason.",
        retry_after_s=why.retry_after_s,
    )


def status_of(place: Place) -> ModelStatus:
    return ModelStatus(_VALUES[place.state], place.failure.message if place.failure else None)


def counts_of(model: FleetModel, place: Place) -> ModelCounts:
    return ModelCounts(
        model.name, place.state == "loaded", len(place.waiting), model.n_loads, model.load_seconds, model.n_unloads
    )


def describe(model: FleetModel, place: Place, now_s: float) -> dict[str, Any]:
    """Return the model's part of /health. It is public: it has no paths, prompts or keys.

    `in_memory_s` counts from the end of the load.
    """
    loaded = model.loaded
    value: dict[str, Any] = {
        "id": model.name,
        "status": place.state,
        "running": len(place.running),
        "waiting": len(place.waiting),
        "loads": model.n_loads,
        "unloads": model.n_unloads,
        "last_load_s": round(model.last_load_s, 3),
    }
    if progress := dict(model.progress):
        value["progress"] = {phase: round(fraction, 4) for phase, fraction in progress.items()}
    if place.failure is not None:
        value["error"] = {"code": place.failure.code, "message": place.failure.message}
        value["retry_in_s"] = round(max(0.0, place.retry_s - now_s), 1)
    if loaded is not None:
        value |= describe_model(loaded) | {"in_memory_s": round(now_s - place.since_s, 1)}
    return value
