"""Loads a model with a plan, and with smaller plans as long as there is not enough memory.

`plan.smaller` makes the smaller plans. Each step is a warning in the log and a line of the plan's `degraded`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from worker_gguf.errors import NotEnoughMemory
from worker_gguf.plan import MemoryPlan, Stage

__all__ = ["Loaded", "load_within_memory"]

logger = logging.getLogger(__name__)


class Loaded(Protocol):
    """A model in memory."""

    def close(self) -> None: ...


ModelT = TypeVar("ModelT", bound=Loaded)
EngineT = TypeVar("EngineT")


def load_within_memory(
    plan: MemoryPlan,
    load: Callable[[MemoryPlan], ModelT],
    open_engine: Callable[[ModelT, MemoryPlan], EngineT],
    next_plan: Callable[[MemoryPlan, Stage], MemoryPlan | None],
) -> tuple[ModelT, EngineT, MemoryPlan]:
    """Load a model and open its engine. Return both and the plan that they follow.

    The model is loaded again only if the smaller plan places its layers differently. If there is no smaller plan, the
    last NotEnoughMemory is raised. After any error, nothing stays loaded.
    """
    model: ModelT | None = None
    while True:
        stage: Stage = "load"
        try:
            if model is None:
                model = load(plan)
            stage = "context"
            return model, open_engine(model, plan), plan
        except NotEnoughMemory as error:
            smaller = next_plan(plan, stage)
            if smaller is None:
                _close(model)
                raise
            logger.warning("not enough memory", extra={"step": smaller.degraded[-1], "reason": error.message})
            if _placement(smaller) != _placement(plan):
                _close(model)
                model = None
            plan = smaller
        except BaseException:
            _close(model)
            raise


def _placement(plan: MemoryPlan) -> tuple[int, int, tuple[float, ...]]:
    return plan.n_gpu_layers, plan.n_cpu_moe, plan.tensor_split


def _close(model: Loaded | None) -> None:
    if model is not None:
        model.close()
