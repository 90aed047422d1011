"""Plans the memory of a projector, which is taken off the free memory before the served model is planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.engine.machine import Machine
from worker_gguf.errors import NotEnoughMemory, SettingsError
from worker_gguf.gguf.pooling import Pools
from worker_gguf.gguf.projector import ProjectorShape
from worker_gguf.plan.memory_plan import Constraints, MemoryPlan, ProjectorPlan
from worker_gguf.plan.usage import room_on

__all__ = ["ROWS_BYTES", "ProjectorWanted", "in_main_memory", "left_by_projector", "plan_beside", "why_no_images"]

ROWS_BYTES: Final = 256 << 20
"""Main memory for the encoded rows of images, so that each is encoded once."""
# What mtmd keeps of each patch while it computes a layer: the input, four projections, the output, and the widened part
# of the feed-forward network twice, in f32. With flash attention, there is no matrix of all pairs of patches.
_COPIES_OF_ROW: Final = 6
_COPIES_OF_FF: Final = 2
_FIXED_BYTES: Final = 64 << 20
_DEFAULT_UBATCH: Final = 512


class ProjectorWanted(Struct, frozen=True):
    """A projector that the model should have. If it `is_required`, the worker does not start without it."""

    shape: ProjectorShape
    is_required: bool


def plan_beside(
    projector: ProjectorWanted | None,
    room: Machine,
    constraints: Constraints,
    plan: Callable[[Machine, Constraints], MemoryPlan],
) -> MemoryPlan:
    """Plan a projector, and with `plan` the model in the memory that it leaves free.

    A projector that does not fit is left out, with the reason, unless it is required. Raises NotEnoughMemory if the
    model does not fit, or not beside a required projector, and SettingsError if a model that pools should have one.
    """
    if projector is None:
        return plan(room, constraints)
    if why_none := why_no_images(constraints.pools, is_required=projector.is_required):
        return replace(plan(room, constraints), blind=why_none)
    seeing = _with_room_for(projector.shape, constraints)
    for own in _projector_plans(projector.shape, room, constraints):
        try:
            planned = plan(left_by_projector(own, room), seeing)
        except NotEnoughMemory as error:
            shortage = error
        else:
            why = {} if seeing == constraints else {"n_ubatch": "the tokens of an image, which are computed together"}
            return replace(planned, projector=own, reasons=planned.reasons | why)
    if projector.is_required:
        raise shortage
    return replace(plan(room, constraints), blind="the projector does not fit into the memory beside the model")


def why_no_images(pools: Pools | None, *, is_required: bool) -> str | None:
    """Return why a model takes no images whatever its projector and the memory are, or None.

    Raises SettingsError if it must have a projector.
    """
    if pools is None:
        return None
    if is_required:
        raise SettingsError("MMPROJ lets a model see images, and a model that pools takes texts: unset one of the two.")
    return "a model that pools takes texts alone"


def _projector_plans(shape: ProjectorShape, machine: Machine, constraints: Constraints) -> Iterator[ProjectorPlan]:
    """Yield the places for a projector, the best first: the GPU with the most free memory, then main memory."""
    compute_bytes = _FIXED_BYTES + 4 * shape.n_patches * (_COPIES_OF_ROW * shape.n_embd + _COPIES_OF_FF * shape.n_ff)
    if machine.gpus and constraints.n_gpu_layers != 0:
        gpu = max(range(len(machine.gpus)), key=lambda i: room_on(machine.gpus[i]))
        if shape.weights_bytes + compute_bytes <= room_on(machine.gpus[gpu]):
            yield ProjectorPlan(gpu, shape.weights_bytes, compute_bytes, ROWS_BYTES)
    yield ProjectorPlan(None, shape.weights_bytes, compute_bytes, ROWS_BYTES)


def left_by_projector(plan: ProjectorPlan | None, machine: Machine) -> Machine:
    """Return the machine with the memory that a projector leaves free."""
    if plan is None:
        return machine
    gpus = tuple(
        replace(gpu, free_bytes=max(0, gpu.free_bytes - plan.bytes_on(at))) for at, gpu in enumerate(machine.gpus)
    )
    return replace(machine, free_bytes=max(0, machine.free_bytes - plan.bytes_on(None)), gpus=gpus)


def _with_room_for(shape: ProjectorShape, constraints: Constraints) -> Constraints:
    """Return the constraints with steps that are large enough for rows that must be computed together.

    A set N_UBATCH stays, and images with more rows are refused.
    """
    if constraints.n_ubatch is not None or shape.most_together <= _DEFAULT_UBATCH:
        return constraints
    return replace(constraints, n_ubatch=shape.most_together)


def in_main_memory(plan: MemoryPlan, why: str) -> MemoryPlan | None:
    """Return the plan with its projector moved to main memory, or None if it is not on a GPU."""
    if plan.projector is None or plan.projector.gpu is None:
        return None
    step = f"the projector in main memory instead of a GPU: {why}"
    return replace(plan, projector=replace(plan.projector, gpu=None), degraded=(*plan.degraded, step))
