"""The ways to place the weights: all on the GPUs, without some experts, without some layers. Each puts as much on the
GPUs as fits.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable

from msgspec import Struct

from worker_gguf.engine.machine import Machine
from worker_gguf.plan.kv_steps import Choice
from worker_gguf.plan.memory_plan import Constraints
from worker_gguf.plan.shape import ModelShape
from worker_gguf.plan.usage import even_split, measure

__all__ = ["FitCheck", "WeightPlacement", "as_chosen", "weight_placements"]


class FitCheck(Struct, frozen=True):
    """Decides whether a choice fits, with its layers distributed over the GPUs."""

    model: ModelShape
    machine: Machine
    constraints: Constraints

    def complete(self, choice: Choice) -> Choice | None:
        """Return the choice with its split over the GPUs, or None if it does not fit."""
        if self.constraints.tensor_split is None and (split := even_split(self.model, self.machine, choice.layout)):
            choice = choice.changed("layers distributed by free memory", tensor_split=split)
        return choice if all(use.fits for use in measure(self.model, self.machine, choice.layout)) else None


WeightPlacement = Callable[[FitCheck, Choice], Choice | None]


def weight_placements(
    model: ModelShape, machine: Machine, constraints: Constraints, first: Choice
) -> list[WeightPlacement]:
    """List the ways to place the weights, the fastest first."""
    placements: list[WeightPlacement] = [as_chosen]
    if not machine.gpus or first.layout.n_gpu_layers == 0:
        return placements
    free_experts = bool(model.experts_bytes) and constraints.n_cpu_moe is None
    if free_experts:
        placements.append(_without_some_experts)
    if constraints.n_gpu_layers is None:
        placements.append(_without_experts_and_some_layers if free_experts else _without_some_layers)
        placements.append(_without_gpu)
    return placements


def as_chosen(fit_check: FitCheck, base: Choice) -> Choice | None:
    return fit_check.complete(base)


def _without_some_experts(fit_check: FitCheck, base: Choice) -> Choice | None:
    """Keep the experts of as few layers as necessary in main memory."""
    n_layers = fit_check.model.n_layers

    if fit_check.constraints.n_gpu_layers is None:
        base = base.reduced("all, without some experts", n_gpu_layers=-1)

    def with_n(n: int) -> Choice:
        return base.reduced(f"the experts of {n} of {n_layers} layers stay in main memory", n_cpu_moe=n)

    # Bisection works because a layer's experts in main memory never use more of a GPU.
    n = bisect_left(range(1, n_layers), True, key=lambda n: fit_check.complete(with_n(n)) is not None) + 1
    return fit_check.complete(with_n(n))


def _without_some_layers(fit_check: FitCheck, base: Choice) -> Choice | None:
    n_layers = fit_check.model.n_layers

    def with_n(n: int) -> Choice:
        return base.reduced(f"GPU memory holds {n} of {n_layers} layers", n_gpu_layers=n)

    gpus = [*range(len(fit_check.machine.gpus))]

    def overflows(n: int) -> bool:
        choice = with_n(n)
        if fit_check.constraints.tensor_split is None:
            choice = choice.changed("", tensor_split=even_split(fit_check.model, fit_check.machine, choice.layout))
        uses = measure(fit_check.model, fit_check.machine, choice.layout)
        return any(not uses[gpu].fits for gpu in gpus)

    n = bisect_right(range(1, n_layers + 1), False, key=overflows)
    return fit_check.complete(with_n(n)) if n else None


def _without_experts_and_some_layers(fit_check: FitCheck, base: Choice) -> Choice | None:
    return _without_some_layers(
        fit_check, base.changed("no experts fit on the GPU", n_cpu_moe=fit_check.model.n_layers)
    )


def _without_gpu(fit_check: FitCheck, base: Choice) -> Choice | None:
    return fit_check.complete(base.reduced("not one layer fits on the GPU", n_gpu_layers=0))
