"""The next smaller plan after a load ran out of memory, although the plan had fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from msgspec.structs import replace

from worker_gguf.engine.machine import Machine
from worker_gguf.plan.choose import USEFUL_N_CTX
from worker_gguf.plan.kv_steps import DEFAULT_N_CTX, MIN_N_CTX
from worker_gguf.plan.layout import Layout
from worker_gguf.plan.memory_plan import Constraints, MemoryPlan, describe
from worker_gguf.plan.projector import in_main_memory
from worker_gguf.plan.shape import ModelShape
from worker_gguf.plan.usage import even_split

__all__ = ["Stage", "smaller_plan"]

Stage = Literal["load", "context", "death"]
"""What failed: the weights ("load") or the KV cache and compute buffers ("context") ran out of memory, or the engine
process died while it opened the context ("death"), for which a lack of memory is the most likely cause.
"""

_WHY: Final[dict[Stage, str]] = {
    "load": "the load ran out of memory",
    "context": "the load ran out of memory",
    "death": "the engine process died while it opened the context",
}


def smaller_plan(
    plan: MemoryPlan, stage: Stage, model: ModelShape, machine: Machine, constraints: Constraints
) -> MemoryPlan | None:
    """Return a plan that is smaller by one step: a shorter context if it has grown, fewer sequences, a still shorter
    context, or fewer layers on the GPU.

    Values that are set stay, and `degraded` lists the step. Returns None when no step is left. At the stage "load" the
    only step is fewer layers on the GPU, because the others do not make the weights smaller. A projector on a GPU is
    moved to main memory before all of that.
    """
    if (moved := in_main_memory(plan, _WHY[stage])) is not None:
        return moved
    layout = Layout(
        n_ctx=plan.n_ctx,
        n_parallel=plan.n_parallel,
        kv_unified=plan.kv_unified,
        n_batch=plan.n_batch,
        n_ubatch=plan.n_ubatch,
        type_k=plan.type_k,
        type_v=plan.type_v,
        flash_attn=plan.flash_attn,
        swa_full=constraints.swa_full,
        speculates=constraints.speculates,
        n_gpu_layers=plan.n_gpu_layers,
        n_cpu_moe=plan.n_cpu_moe,
        tensor_split=plan.tensor_split,
        n_cells=constraints.n_cells,
        pools=constraints.pools,
    )
    step = next(_steps(layout, stage, model, machine, constraints), None)
    if step is None:
        return None
    names = [name for name in ("n_parallel", "n_ctx", "n_gpu_layers") if getattr(step, name) != getattr(layout, name)]
    changes = " ".join(f"{name.upper()}={getattr(step, name)} instead of {getattr(layout, name)}" for name in names)
    smaller = describe(step, plan.reasons | dict.fromkeys(names, _WHY[stage]), model, machine, constraints)
    degraded = (*plan.degraded, f"{changes}: {_WHY[stage]}")
    return replace(smaller, degraded=degraded, draft=plan.draft, projector=plan.projector, blind=plan.blind)


def _steps(
    layout: Layout, stage: Stage, model: ModelShape, machine: Machine, constraints: Constraints
) -> Iterator[Layout]:
    n_ctx, n_parallel = layout.n_ctx, layout.n_parallel
    n_offloaded = model.n_layers + 1 if layout.n_gpu_layers < 0 else layout.n_gpu_layers
    can_move = bool(machine.gpus) and constraints.n_gpu_layers is None and n_offloaded > 0
    if stage != "load":
        if constraints.n_ctx is None and n_ctx > DEFAULT_N_CTX:
            yield replace(layout, n_ctx=max(DEFAULT_N_CTX, n_ctx // 2))
        # The inputs of a model that pools share their memory, so fewer of them take no less.
        if constraints.n_parallel is None and n_parallel > 1 and layout.pools is None:
            is_set = constraints.kv_unified is not None or constraints.n_cells is not None
            unified = layout.kv_unified if is_set else n_parallel // 2 == 1
            yield replace(layout, n_parallel=n_parallel // 2, kv_unified=unified)
        least = USEFUL_N_CTX if can_move else MIN_N_CTX
        if constraints.n_ctx is None and n_ctx > least:
            yield replace(layout, n_ctx=max(least, n_ctx // 2))
    if can_move:
        fewer = replace(layout, n_gpu_layers=n_offloaded * 3 // 4)
        split = even_split(model, machine, fewer) if constraints.tensor_split is None else layout.tensor_split
        yield replace(fewer, tensor_split=split)
