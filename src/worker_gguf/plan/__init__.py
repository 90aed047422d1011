"""Plans the memory of a model: layers on the GPUs, context, sequences. A pure decision that gives its reasons.

Takes the numbers of the header and of the machine and returns a frozen plan. Knows nothing of llama.cpp. `shape` has
the needs of the model, `usage` measures the memory of a layout on each device, `choose` picks the layout, `kv_steps`
reduces the KV memory step by step, `weight_placements` lists the ways to place the weights, `window` grows the context
into the memory that is left, and `smaller` makes the next plan after a load ran out of memory. `draft` plans a draft
model, and `projector` a projector.
"""

from __future__ import annotations

from worker_gguf.plan.choose import plan_memory
from worker_gguf.plan.draft import left_by, plan_draft, plan_with_draft
from worker_gguf.plan.layout import Layout
from worker_gguf.plan.memory_plan import Constraints, DraftPlan, MemoryPlan, ProjectorPlan, size_text
from worker_gguf.plan.projector import ProjectorWanted, left_by_projector
from worker_gguf.plan.quants import preference
from worker_gguf.plan.shape import LayerShape, ModelShape
from worker_gguf.plan.smaller import Stage, smaller_plan
from worker_gguf.plan.usage import GPU_CONTEXT_BYTES, DeviceUse, measure

__all__ = [
    "GPU_CONTEXT_BYTES",
    "Constraints",
    "DeviceUse",
    "DraftPlan",
    "LayerShape",
    "Layout",
    "MemoryPlan",
    "ModelShape",
    "ProjectorPlan",
    "ProjectorWanted",
    "Stage",
    "left_by",
    "left_by_projector",
    "measure",
    "plan_draft",
    "plan_memory",
    "plan_with_draft",
    "preference",
    "size_text",
    "smaller_plan",
]
