"""Loads a model with a plan, and with smaller plans as long as there is not enough memory.

`plan.smaller` makes the smaller plans. Each step is a warning in the log and a line of the plan's `degraded`. An engine
process that dies while it opens the context counts as one that had not enough memory: llama.cpp ends the process if an
allocation on a GPU fails at the wrong place, and the system kills it if main memory is used up. Because other causes
are possible, this is tried only `MOST_DEATHS` times.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from worker_gguf.errors import EngineFailed, NotEnoughMemory
from worker_gguf.link.process import EngineDied
from worker_gguf.plan import MemoryPlan, ProjectorPlan, Stage

__all__ = ["MOST_DEATHS", "Loaded", "load_within_memory"]

logger = logging.getLogger(__name__)

MOST_DEATHS: Final = 4
"""The number of deaths after which the start fails."""


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

    The model is loaded again only if the smaller plan places its layers differently, or if its process died. If there
    is no smaller plan, the last NotEnoughMemory is raised, or EngineFailed with the last words of the process. After
    any error, nothing stays loaded.
    """
    model: ModelT | None = None
    n_deaths = 0
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
        except EngineDied as death:
            _close(model)
            model, n_deaths = None, n_deaths + 1
            smaller = next_plan(plan, "death") if n_deaths < MOST_DEATHS else None
            if smaller is None:
                raise EngineFailed(_given_up(str(death), n_deaths)) from None
            extra = {"step": smaller.degraded[-1], "reason": str(death), "death": n_deaths, "most": MOST_DEATHS}
            logger.warning("engine process died while it opened the context", extra=extra)
            plan = smaller
        except BaseException:
            _close(model)
            raise


def _given_up(last_words: str, n_deaths: int) -> str:
    if n_deaths == 1:
        return last_words
    return f"{last_words} It died {n_deaths} times while it opened the context, each time with a smaller plan."


def _placement(plan: MemoryPlan) -> tuple[int, int, tuple[float, ...], ProjectorPlan | None]:
    return plan.n_gpu_layers, plan.n_cpu_moe, plan.tensor_split, plan.projector


def _close(model: Loaded | None) -> None:
    if model is not None:
        model.close()
