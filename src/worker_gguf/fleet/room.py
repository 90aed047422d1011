"""Accounts for the memory of loaded models and decides whether another fits, at its planned size. Pure functions.

A loaded model takes the memory that its plan states. The memory without any model is the smaller of two numbers: the
free memory before the first load, and the free memory now plus the memory of the loaded models. The second number alone
would be too large if weights are mapped files, because those count as free. The first number alone would ignore the
memory that other processes have taken since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from msgspec import Struct, field
from msgspec.structs import replace

from worker_gguf.engine.machine import Machine
from worker_gguf.errors import NotEnoughMemory
from worker_gguf.gguf import ModelHeader
from worker_gguf.plan import GPU_CONTEXT_BYTES, Constraints, MemoryPlan, ModelShape, ProjectorWanted, plan_memory
from worker_gguf.plan.planning import constraints_of, first_visible, pools_for, shape_of, visible, wants_mtp
from worker_gguf.plan.projector import plan_beside
from worker_gguf.settings import Settings

__all__ = ["Footprint", "Need", "Room", "footprint_of", "least", "need_of", "without"]


class Footprint(Struct, frozen=True):
    """The bytes that a model takes on each GPU of the machine and in main memory."""

    gpus: tuple[int, ...]
    main: int


class Need(Struct, frozen=True):
    """The values that determine a model's plan. `visible` reduces a machine to the GPUs that the settings use."""

    shape: ModelShape
    constraints: Constraints
    visible: Callable[[Machine], Machine]
    projector: ProjectorWanted | None = None

    def plan(self, machine: Machine) -> MemoryPlan:
        """Plan the model, and its projector, on a machine. Raises NotEnoughMemory."""
        return plan_beside(self.projector, self.visible(machine), self.constraints, partial(plan_memory, self.shape))


def need_of(header: ModelHeader, settings: Settings, projector: ProjectorWanted | None = None) -> Need:
    pools = pools_for(header, settings)
    constraints = constraints_of(settings, pools=pools, shares_memory=True)
    shape = shape_of(header, has_mtp=pools is None and wants_mtp(header, settings))
    return Need(shape, constraints, lambda machine: visible(machine, settings), projector)


def footprint_of(plan: MemoryPlan, machine: Machine, settings: Settings) -> Footprint:
    """Return the memory of a plan by the machine's GPUs.

    `plan.devices` has only the GPUs that the settings use, in order, and then main memory, without the projector. An
    engine process has a context on the other GPUs, too, because it reads the free memory of all.
    """
    first, projector = first_visible(settings), plan.projector
    on_gpus = [use.used_bytes or GPU_CONTEXT_BYTES for use in plan.devices if use.is_gpu]
    main = sum(use.used_bytes for use in plan.devices if not use.is_gpu) + (plan.cache_ram << 20)
    if projector is not None:
        on_gpus = [used + projector.bytes_on(gpu) for gpu, used in enumerate(on_gpus)]
        main += projector.bytes_on(None)
    behind = len(machine.gpus) - first - len(on_gpus)
    return Footprint((*[GPU_CONTEXT_BYTES] * first, *on_gpus, *[GPU_CONTEXT_BYTES] * behind), main)


def without(machine: Machine, taken: Iterable[Footprint]) -> Machine:
    """Return the machine with its free memory reduced by `taken`."""
    return _moved(machine, taken, -1)


def least(a: Machine, b: Machine) -> Machine:
    """Return machine `a` with the smaller free memory of both, for each device."""
    gpus = tuple(replace(x, free_bytes=min(x.free_bytes, y.free_bytes)) for x, y in zip(a.gpus, b.gpus, strict=False))
    return replace(a, free_bytes=min(a.free_bytes, b.free_bytes), gpus=gpus)


def _moved(machine: Machine, moved: Iterable[Footprint], sign: int) -> Machine:
    footprints = tuple(moved)
    gpus = tuple(
        replace(gpu, free_bytes=max(0, gpu.free_bytes + sign * sum(taken.gpus[index] for taken in footprints)))
        for index, gpu in enumerate(machine.gpus)
    )
    free_bytes = machine.free_bytes + sign * sum(taken.main for taken in footprints)
    return replace(machine, free_bytes=max(0, free_bytes), gpus=gpus)


class Room(Struct, frozen=True):
    """The memory at one moment: `empty` is the machine without any model, `taken` the memory of each loaded model."""

    empty: Machine
    taken: Mapping[str, Footprint] = field(default_factory=dict)
    _known: dict[tuple[str, frozenset[str]], bool] = field(default_factory=dict)

    @classmethod
    def of(cls, first: Machine, now: Machine, taken: Mapping[str, Footprint]) -> Room:
        """Build it from the machine before the first load, the machine now, and the memory that models take."""
        return cls(least(first, _moved(now, taken.values(), 1)), dict(taken))

    def left_by(self, others: Iterable[str]) -> Machine:
        """Return the machine with the memory that `others` leave free."""
        return without(self.empty, [self.taken[name] for name in others])

    def fits(self, name: str, need: Need, others: frozenset[str]) -> bool:
        """Return whether the model gets the same plan next to `others` as alone.

        Raises NotEnoughMemory if the model does not fit alone.
        """
        key = (name, others)
        if key not in self._known:
            alone = need.plan(self.empty)
            try:
                self._known[key] = _layout(need.plan(self.left_by(others))) == _layout(alone)
            except NotEnoughMemory:
                self._known[key] = False
        return self._known[key]


def _layout(plan: MemoryPlan) -> tuple[object, ...]:
    """Return the parts of a plan that users notice.

    The split of layers over GPUs is not one of them: it depends on free memory, and another split loses nothing. Nor is
    which GPU has the projector, but whether one has it is: in main memory, encoding an image takes seconds.
    """
    sees = plan.projector is not None
    sees_on_gpu = plan.projector is not None and plan.projector.gpu is not None
    sizes = plan.n_ctx, plan.n_parallel, plan.n_cells, plan.type_k, plan.type_v
    return plan.n_gpu_layers, plan.n_cpu_moe, *sizes, sees, sees_on_gpu
