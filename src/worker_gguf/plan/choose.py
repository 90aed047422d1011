"""Chooses the best layout that fits, in a stated order of concessions.

Fewer sequences (to 2), a shorter context (to 4096), one sequence, a q8_0 KV cache, a still shorter context. With GPUs,
all of these are tried with the whole model on them (to 2048 tokens) before experts, and then layers, stay in main
memory. If nothing had to be given up, the context grows into the memory that is left (`window`).
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from worker_gguf.engine.machine import Machine
from worker_gguf.errors import NotEnoughMemory
from worker_gguf.plan.kv_steps import MIN_N_CTX, Choice, first_choice, kv_steps
from worker_gguf.plan.layout import Layout
from worker_gguf.plan.memory_plan import Constraints, MemoryPlan, describe, size_text
from worker_gguf.plan.shape import ModelShape
from worker_gguf.plan.usage import measure
from worker_gguf.plan.weight_placements import FitCheck, as_chosen, weight_placements
from worker_gguf.plan.window import grown

__all__ = ["USEFUL_N_CTX", "plan_memory"]

USEFUL_N_CTX: Final = 2048


def plan_memory(model: ModelShape, machine: Machine, constraints: Constraints) -> MemoryPlan:
    """Choose every number that is not set. Raises NotEnoughMemory when even the smallest layout does not fit; its
    message proposes one that would.
    """
    found = _search(model, machine, constraints)
    if found is None:
        raise NotEnoughMemory(_what_would_fit(model, machine, constraints))
    best = grown(found, model, machine, constraints)
    return describe(best.layout, best.reasons, model, machine, constraints)


def _search(model: ModelShape, machine: Machine, constraints: Constraints) -> Choice | None:
    first = first_choice(model, machine, constraints)
    fit_check = FitCheck(model, machine, constraints)
    for least_n_ctx in (USEFUL_N_CTX, MIN_N_CTX):
        steps = [step for step in kv_steps(first, constraints) if step.layout.n_ctx >= least_n_ctx] or [first]
        for placement in weight_placements(model, machine, constraints, first):
            tried = steps if placement is as_chosen else _few(steps, constraints)
            if found := next((choice for step in tried if (choice := placement(fit_check, step))), None):
                return found
    return None


def _few(steps: list[Choice], constraints: Constraints) -> list[Choice]:
    """Keep only the steps with at most two sequences: each further one would push more of the weights off the GPU."""
    few = [step for step in steps if step.layout.n_parallel <= 2]
    if constraints.n_parallel is not None or not few:
        return steps
    why = "few, to leave room for more of the model on the GPU"
    return [Choice(step.layout, step.reasons | {"n_parallel": why}, step.gave_up) for step in few]


def _what_would_fit(model: ModelShape, machine: Machine, constraints: Constraints) -> str:
    """Return one sentence about the missing memory and one about what would fit."""
    layout = first_choice(model, machine, constraints).layout
    uses = measure(model, machine, layout)
    needed = sum(use.used_bytes for use in uses if not use.fits)
    room = sum(use.room_bytes for use in uses if not use.fits)
    where = " and ".join(use.name for use in uses if not use.fits)
    shortage = (
        f"The model needs {size_text(needed)} with {_sequences(layout)}, of which {size_text(model.weights_bytes)} are "
        f"weights, and {where} {'have' if ' and ' in where else 'has'} room for {size_text(room)}."
    )
    eased = replace(
        constraints,
        n_ctx=None,
        n_parallel=None,
        n_gpu_layers=None,
        n_cpu_moe=None,
        tensor_split=None,
        type_k=None,
        type_v=None,
    )
    if eased != constraints and (found := _search(model, machine, eased)):
        best = found.layout
        pairs = [("N_PARALLEL", best.n_parallel, layout.n_parallel), ("N_CTX", best.n_ctx, layout.n_ctx)]
        if machine.gpus:
            pairs += [("N_GPU_LAYERS", best.n_gpu_layers, layout.n_gpu_layers)]
            pairs += [("N_CPU_MOE", best.n_cpu_moe, layout.n_cpu_moe)]
        types = [("TYPE_K", best.type_k, layout.type_k), ("TYPE_V", best.type_v, layout.type_v)]
        changes = [f"{name}={value}" for name, value, before in (*pairs, *types) if value != before]
        return f"{shortage} {' '.join(changes)} would fit; so might a smaller quantisation."
    room = sum(use.room_bytes for use in uses)
    least = replace(layout, n_ctx=MIN_N_CTX, n_parallel=1, kv_unified=True)
    overhead = sum(use.used_bytes - use.weights_bytes for use in measure(model, machine, least))
    return (
        f"{shortage} Even N_PARALLEL=1 N_CTX={MIN_N_CTX} does not fit: take a smaller quantisation, of at most "
        f"{size_text(max(0, room - overhead))}, or a larger machine."
    )


def _sequences(layout: Layout) -> str:
    return f"{layout.n_parallel} sequence{'s' if layout.n_parallel > 1 else ''} of {layout.n_ctx} tokens"
