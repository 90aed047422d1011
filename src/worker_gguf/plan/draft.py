"""Plans the memory of a draft model, which is taken off the free memory before the served model is planned."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from worker_gguf.errors import NotEnoughMemory
from worker_gguf.plan.kv_steps import first_choice
from worker_gguf.plan.memory_plan import Constraints, DraftPlan, size_text
from worker_gguf.plan.shape import ModelShape
from worker_gguf.plan.usage import Machine, measure

__all__ = ["DRAFT_N_CTX", "left_by", "plan_draft"]

DRAFT_N_CTX: Final = 8192
"""The longest sequence for which a draft model guesses. A longer one would take memory that the served model needs."""


def plan_draft(draft: ModelShape, machine: Machine, constraints: Constraints) -> DraftPlan:
    """Plan a draft model for as many sequences as the served model may have, by its `constraints`.

    It goes to the GPU with the most free memory, because a small model is slower on several. Raises NotEnoughMemory.
    """
    uses_gpu = bool(machine.gpus) and constraints.n_gpu_layers != 0
    gpu = max(range(len(machine.gpus)), key=lambda i: machine.gpus[i].room_bytes) if uses_gpu else None
    place = replace(machine, gpus=() if gpu is None else (machine.gpus[gpu],))
    own = Constraints(
        n_ctx=min(constraints.n_ctx or DRAFT_N_CTX, DRAFT_N_CTX, draft.n_ctx_train or DRAFT_N_CTX),
        n_parallel=first_choice(draft, machine, constraints).layout.n_parallel,
        n_ubatch=constraints.n_ubatch,
        flash_attn=constraints.flash_attn,
        speculates=False,
    )
    layout = first_choice(draft, place, own).layout
    layout = replace(layout, n_batch=max(layout.n_ubatch, layout.n_parallel))
    uses = measure(draft, place, layout)
    for use in uses:
        if not use.fits:
            raise NotEnoughMemory(
                f"The draft model needs {size_text(use.used_bytes)} for {layout.n_parallel} sequences of "
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
