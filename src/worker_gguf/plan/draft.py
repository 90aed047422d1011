"""Plans the memory of a draft model, which is taken off the free memory before the served model is planned."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from worker_gguf.engine.machine import Machine
from worker_gguf.errors import NotEnoughMemory
from worker_gguf.plan.choose import plan_memory
from worker_gguf.plan.kv_steps import first_choice
from worker_gguf.plan.memory_plan import Constraints, DraftPlan, MemoryPlan, size_text
from worker_gguf.plan.shape import ModelShape
from worker_gguf.plan.usage import measure, room_on

__all__ = ["DRAFT_N_CTX", "left_by", "plan_draft", "plan_with_draft"]

DRAFT_N_CTX: Final = 8192
"""The longest sequence for which a draft model guesses. A longer one would take memory that the served model needs."""


def plan_with_draft(model: ModelShape, draft: ModelShape, machine: Machine, constraints: Constraints) -> MemoryPlan:
    """Plan a draft model, and the served model in the memory that it leaves free.

    If the served model does not get as many sequences as the draft model was planned for, both are planned with half as
    many. Raises NotEnoughMemory.
    """
    n_parallel = first_choice(model, machine, constraints).layout.n_parallel
    while True:
        is_last = constraints.n_parallel is not None or n_parallel == 1
        try:
            own = plan_draft(draft, machine, replace(constraints, n_parallel=n_parallel))
            plan = plan_memory(model, left_by(own, machine), constraints)
        except NotEnoughMemory:
            if is_last:
                raise
        else:
            if plan.n_parallel > n_parallel:
                plan = plan_memory(model, left_by(own, machine), replace(constraints, n_parallel=n_parallel))
                plan = replace(plan, reasons=plan.reasons | {"n_parallel": "as many as the draft model has room for"})
            if plan.n_parallel == n_parallel or is_last:
                return replace(plan, draft=own)
        n_parallel //= 2


def plan_draft(draft: ModelShape, machine: Machine, constraints: Constraints) -> DraftPlan:
    """Plan a draft model for as many sequences as `constraints` have, which are those of the served model.

    It goes to the GPU with the most free memory, because a small model is slower on several. Raises NotEnoughMemory.
    """
    uses_gpu = bool(machine.gpus) and constraints.n_gpu_layers != 0
    gpu = max(range(len(machine.gpus)), key=lambda i: room_on(machine.gpus[i])) if uses_gpu else None
    place = replace(machine, gpus=() if gpu is None else (machine.gpus[gpu],))
    own = Constraints(
        n_ctx=min(constraints.n_ctx or DRAFT_N_CTX, DRAFT_N_CTX, draft.n_ctx_train or DRAFT_N_CTX),
        n_parallel=constraints.n_parallel,
        n_ubatch=constraints.n_ubatch,
        flash_attn=constraints.flash_attn is not False,
        speculates=False,
    )
    layout = first_choice(draft, place, own).layout
    layout = replace(layout, n_batch=max(layout.n_ubatch, layout.n_parallel))
    uses = measure(draft, place, layout)
    sequences = f"{layout.n_parallel} sequence{'s' if layout.n_parallel > 1 else ''}"
    for use in uses:
        if not use.fits:
            raise NotEnoughMemory(
                f"The draft model needs {size_text(use.used_bytes)} for {sequences} of "
                f"{layout.n_ctx} tokens, and {use.name} has room for {size_text(use.room_bytes)}. Unset DRAFT_MODEL, "
                "or set it to a smaller model."
            )
    return DraftPlan(gpu, layout.n_ctx, layout.n_parallel, layout.n_batch, uses)


def left_by(plan: DraftPlan | None, machine: Machine) -> Machine:
    """Return the machine with the memory that a draft model leaves free."""
    if plan is None:
        return machine
    gpus = tuple(
        replace(gpu, free_bytes=max(0, gpu.free_bytes - plan.bytes_on(at))) for at, gpu in enumerate(machine.gpus)
    )
    return replace(machine, free_bytes=max(0, machine.free_bytes - plan.bytes_on(None)), gpus=gpus)
