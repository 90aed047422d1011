"""The layout of a model in memory: layers on the GPUs, context, sequences. A pure decision with its reasons.

Knows nothing of llama.cpp: takes the numbers of the header and of the machine, returns a frozen plan. `shape` is the
model's needs, `usage` the memory that a layout takes on each device, `choose` picks the layout, `kv_steps` gives up KV
memory step by step, `weight_placements` lists places for the weights, and `smaller` is the next plan after a load ran
out of memory.
"""

from __future__ import annotations

from worker_gguf.plan.choose import plan_memory
from worker_gguf.plan.memory_plan import Constraints, MemoryPlan
from worker_gguf.plan.quants import preference
from worker_gguf.plan.shape import LayerShape, ModelShape
from worker_gguf.plan.smaller import Stage, smaller_plan
from worker_gguf.plan.usage import Device, DeviceUse, Layout, Machine, measure

__all__ = [
    "Constraints",
    "Device",
    "DeviceUse",
    "LayerShape",
    "Layout",
    "Machine",
    "MemoryPlan",
    "ModelShape",
    "Stage",
    "measure",
    "plan_memory",
    "preference",
    "smaller_plan",
]
