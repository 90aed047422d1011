"""The interface of a loaded model, or of several models, for the worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct, to_builtins

from worker_gguf.engine.machine import Machine
from worker_gguf.errors import WorkerError
from worker_gguf.gguf import ModelHeader
from worker_gguf.plan import MemoryPlan
from worker_gguf.start.adapters import Adapters
from worker_gguf.store import LocalModel, UsageMark

if TYPE_CHECKING:
    from worker_gguf.engine.stats import EngineStats
    from worker_gguf.generation.engine import Engine
    from worker_gguf.llama.vocabulary import Vocabulary
    from worker_gguf.observe.metrics import Metrics
    from worker_gguf.service.request import Answer, Request, Stream
    from worker_gguf.service.service import Service
    from worker_gguf.start.checks import Check
    from worker_gguf.start.gpu_memory import GpuMemory
    from worker_gguf.start.projector import ProjectorModel

__all__ = ["LoadedModel", "ModelHost", "describe_machine", "describe_model"]


class ModelHost(Protocol):
    """One or several models that answer requests.

    Methods can be called from any thread, and coroutines on any running event loop.
    """

    @property
    def name(self) -> str:
        """The name of the model that answers requests without a model name."""
        ...

    @property
    def n_parallel(self) -> int:
        """The number of requests that can run at the same time."""
        ...

    @property
    def stats(self) -> EngineStats: ...

    async def answer(self, request: Request) -> Answer | Stream:
        """Answer one request. Raises the WorkerError that refuses it."""
        ...

    async def idle(self) -> None:
        """Return when no request is open."""
        ...

    def cut_off(self, error: WorkerError) -> None:
        """End every open request with this error."""
        ...

    def engines(self) -> Sequence[Engine]:
        """Return the engines of the models in memory."""
        ...

    @property
    def is_reloading(self) -> bool:
        """No model can answer, because its engine process has died and another one loads the model."""
        ...

    def watch(self, on_given_up: Callable[[WorkerError], None]) -> None:
        """Call `on_given_up` if no model can answer any more, because its engine processes do not last."""
        ...

    def stop(self) -> None:
        """End the running requests as cancelled and free all memory and files. Call it once."""
        ...

    def publish(self, metrics: Metrics) -> None:
        """Publish the result of the start as metrics."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the part of /health about the models. It is public: it must not contain paths."""
        ...


class LoadedModel(Struct, frozen=True):
    """One loaded model, the result of a start."""

    service: Service
    engine: Engine
    vocabulary: Vocabulary
    local: LocalModel
    header: ModelHeader
    plan: MemoryPlan
    machine: Machine
    usage_mark: UsageMark
    """Prevents other workers on the volume from pruning the model's files."""
    checks: tuple[Check, ...] = ()
    gpu_memory: tuple[GpuMemory, ...] = ()
    adapters: Adapters = Adapters()
    projector: ProjectorModel | None = None
    """The projector that fits the model. It is loaded if the plan has it."""

    @property
    def name(self) -> str:
        return self.service.card.id

    @property
    def n_parallel(self) -> int:
        return self.plan.n_parallel

    @property
    def stats(self) -> EngineStats:
        return self.engine.stats

    async def answer(self, request: Request) -> Answer | Stream:
        return await self.service.answer(request)

    async def idle(self) -> None:
        await self.engine.idle()

    def cut_off(self, error: WorkerError) -> None:
        self.engine.cut_off(error)

    def engines(self) -> Sequence[Engine]:
        return (self.engine,)

    @property
    def is_reloading(self) -> bool:
        return self.engine.state == "reloading"

    def watch(self, on_given_up: Callable[[WorkerError], None]) -> None:
        self.engine.watch(on_given_up)

    def close(self) -> None:
        """End the engine process and free the vocabulary. The files stay protected from pruning."""
        self.engine.stop()
        self.service.settle()
        self.vocabulary.close()
        self.adapters.release()

    def stop(self) -> None:
        self.close()
        self.usage_mark.release()

    def publish(self, metrics: Metrics) -> None:
        card, local = self.service.card, self.local
        metrics.set_model(
            card.id,
            card.architecture or "",
            card.quantization or "",
            local.source,
            downloaded=local.size_bytes if local.source == "download" else 0,
            degraded=len(self.plan.degraded),
        )

    def describe(self) -> dict[str, Any]:
        return describe_model(self) | {"machine": describe_machine(self.machine)}


def describe_model(loaded: LoadedModel) -> dict[str, Any]:
    stats, card = loaded.stats, loaded.service.card
    return {
        "model": {
            "id": card.id,
            "architecture": card.architecture,
            "quantization": card.quantization,
            "size_bytes": card.size_bytes,
            "n_ctx_train": card.n_ctx_train,
            "source": loaded.local.source,
            "capabilities": list(card.capabilities),
        },
        "adapters": [adapter.as_dict() for adapter in loaded.adapters.all],
        "slots": {"total": stats.n_slots, "busy": stats.busy_slots},
        "queue": {"waiting": stats.waiting, "most": loaded.engine.max_queue},
        "engine": {"state": loaded.engine.state, "deaths": loaded.engine.n_deaths},
        "memory": {"held_tokens": stats.held_tokens, "cells": stats.n_cells},
        "plan": to_builtins(loaded.plan),
        "gpu_memory": [gpu.as_dict() for gpu in loaded.gpu_memory],
        "checks": [check.as_dict() for check in loaded.checks],
    }


def describe_machine(machine: Machine) -> dict[str, Any]:
    return {
        "cores": machine.n_cores,
        "gpus": [{"name": gpu.name, "total_bytes": gpu.total_bytes} for gpu in machine.gpus],
    }
