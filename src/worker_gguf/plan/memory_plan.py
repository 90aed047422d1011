"""A memory plan: the values that are set, and the chosen layout with a reason for each number."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker_gguf.plan.shape import ModelShape
from worker_gguf.plan.usage import DeviceUse, Layout, Machine, measure

__all__ = ["Constraints", "MemoryPlan", "describe"]


@dataclass(frozen=True, slots=True)
class Constraints:
    """The values that the settings fix. The plan chooses those that are None."""

    n_ctx: int | None = None
    n_parallel: int | None = None
    kv_unified: bool | None = None
    n_cells: int | None = None
    n_gpu_layers: int | None = None
    n_cpu_moe: int | None = None
    tensor_split: tuple[float, ...] | None = None
    n_batch: int | None = None
    n_ubatch: int | None = None
    n_threads: int | None = None
    n_threads_batch: int | None = None
    type_k: str | None = None
    type_v: str | None = None
    flash_attn: bool = True


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`n_ctx` is the context of one request, `n_cells` that of all requests together; `reasons` explains each number.

    `devices` lists the memory on each device. `degraded` has one line for each reduction that a failed load forced.
    """

    n_gpu_layers: int
    n_cpu_moe: int
    tensor_split: tuple[float, ...]
    n_ctx: int
    n_parallel: int
    n_cells: int
    kv_unified: bool
    type_k: str
    type_v: str
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_batch: int
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    devices: tuple[DeviceUse, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    degraded: tuple[str, ...] = ()


def describe(
    layout: Layout, reasons: dict[str, str], model: ModelShape, machine: Machine, constraints: Constraints
) -> MemoryPlan:
    """Make a plan from a layout, adding the numbers that do not affect memory."""
    devices = measure(model, machine, layout)
    n_threads = constraints.n_threads or machine.n_cores
    more = {
        "n_threads": "set" if constraints.n_threads else "the cores this process may use",
        "n_threads_batch": "set" if constraints.n_threads_batch else "the same as N_THREADS",
    }
    return MemoryPlan(
        n_gpu_layers=layout.n_gpu_layers,
        n_cpu_moe=layout.n_cpu_moe,
        tensor_split=layout.tensor_split,
        n_ctx=layout.n_ctx,
        n_parallel=layout.n_parallel,
        n_cells=layout.total_cells,
        kv_unified=layout.kv_unified,
        type_k=layout.type_k,
        type_v=layout.type_v,
        n_batch=layout.n_batch,
        n_ubatch=layout.n_ubatch,
        n_threads=n_threads,
        n_threads_batch=constraints.n_threads_batch or n_threads,
        weights_bytes=sum(device.weights_bytes for device in devices),
        kv_bytes=sum(device.kv_bytes for device in devices),
        compute_bytes=sum(device.compute_bytes for device in devices),
        devices=devices,
        reasons=reasons | more,
    )
