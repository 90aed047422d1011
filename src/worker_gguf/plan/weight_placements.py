"""Where the weights may lie: on the GPUs as asked, without experts, without layers; each the most that fits."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from worker_gguf.plan.kv_steps import Choice
from worker_gguf.plan.memory_plan import Constraints
from worker_gguf.plan.shape import ModelShape
from worker_gguf.plan.usage import Machine, even_split, measure

__all__ = ["Fitting", "Place", "as_it_is", "placements"]


@dataclass(frozen=True, slots=True)
class Fitting:
    """Returns whether choices fit, with the layers shared out over the GPUs."""

    model: ModelShape
    machine: Machine
    constraints: Constraints

    def complete(self, choice: Choice) -> Choice | None:
        """The choice with its split if it fits."""
        if self.constraints.tensor_split is None and (split := even_split(self.model, self.machine, choice.layout)):
            choice = choice.changed("layers shared out by free memory", tensor_split=split)
        return choice if all(use.fits for use in measure(self.model, self.machine, choice.layout)) else None


Place = Callable[[Fitting, Choice], Choice | None]


def placements(model: ModelShape, machine: Machine, constraints: Constraints, first: Choice) -> list[Place]:
    """Where the weights may lie, the fastest first."""
    places: list[Place] = [as_it_is]
    if not machine.gpus or first.layout.n_gpu_layers == 0:
        return places
    free_experts = bool(model.experts_bytes) and constraints.n_cpu_moe is None
    if free_experts:
        places.append(_without_some_experts)
    if constraints.n_gpu_layers is None:
        places.append(_without_experts_and_some_layers if free_experts else _without_some_layers)
        places.append(_without_gpu)
    return places


def as_it_is(fitting: Fitting, base: Choice) -> Choice | None:
    return fitting.complete(base)


def _without_some_experts(fitting: Fitting, base: Choice) -> Choice | None:
    """The experts of as few layers as needed stay in main memory; more of them there is never more on a GPU."""
    n_layers = fitting.model.n_layers

    if fitting.constraints.n_gpu_layers is None:
        base = base.changed("all, without some experts", n_gpu_layers=-1)

    def of(n: int) -> Choice:
        return base.changed(f"the experts of {n} of {n_layers} layers stay in main memory", n_cpu_moe=n)

    n = bisect_left(range(1, n_layers), True, key=lambda n: fitting.complete(of(n)) is not None) + 1
    return fitting.complete(of(n))


def _without_some_layers(fitting: Fitting, base: Choice) -> Choice | None:
    n_layers = fitting.model.n_layers

    def of(n: int) -> Choice:
        return base.changed(f"GPU memory holds {n} of {n_layers} layers", n_gpu_layers=n)

    gpus = [*range(len(fitting.machine.gpus))]

    def overflows(n: int) -> bool:
        choice = of(n)
        if fitting.constraints.tensor_split is None:
            choice = choice.changed("", tensor_split=even_split(fitting.model, fitting.machine, choice.layout))
        uses = measure(fitting.model, fitting.machine, choice.layout)
        return any(not uses[gpu].fits for gpu in gpus)

    n = bisect_right(range(1, n_layers + 1), False, key=overflows)
    return fitting.complete(of(n)) if n else None


def _without_experts_and_some_layers(fitting: Fitting, base: Choice) -> Choice | None:
    return _without_some_layers(fitting, base.changed("no experts fit on the GPU", n_cpu_moe=fitting.model.n_layers))


def _without_gpu(fitting: Fitting, base: Choice) -> Choice | None:
    return fitting.complete(base.changed("not one layer fits on the GPU", n_gpu_layers=0))
