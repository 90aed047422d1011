"""How a model is laid out in memory: layers on the GPUs, context, sequences. A pure decision with its reasons.

Knows nothing of llama.cpp: numbers of the model's header and of the machine in, a frozen plan out. `shape` says what a
model needs, `usage` what a layout takes of each device, `choose` which layout it is to be, `rungs` what is given up of
the KV memory, `places` where the weights may lie, `lesser` what comes next when the memory was not there after all.
"""

from __future__ import annotations

from worker_gguf.plan.choose import plan_memory
from worker_gguf.plan.memory_plan import MemoryPlan, Wishes
from worker_gguf.plan.quants import preference
from worker_gguf.plan.shape import LayerShape, ModelShape
from worker_gguf.plan.smaller import Stage, lesser_plan
from worker_gguf.plan.usage import Device, DeviceUse, Layout, Machine, measure

__all__ = [
    "Device",
    "DeviceUse",
    "LayerShape",
    "Layout",
    "Machine",
    "MemoryPlan",
    "ModelShape",
    "Stage",
    "Wishes",
    "lesser_plan",
    "measure",
    "plan_memory",
    "preference",
]
