"""A memory plan: the values that are set, and the chosen layout with a reason for each number."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, field

from worker_gguf.engine.machine import Machine
from worker_gguf.gguf.pooling import Pools
from worker_gguf.plan.layout import Layout
from worker_gguf.plan.shape import ModelShape
from worker_gguf.plan.usage import DeviceUse, measure

__all__ = ["Constraints", "DraftPlan", "MemoryPlan", "ProjectorPlan", "describe", "size_text"]

# The prompt cache takes this part of the main memory that is left. Where several models share it, each takes less.
_CACHE_SHARE, _CACHE_SHARE_OF_MANY = 4, 16
_MOST_CACHE_RAM = 8192


class Constraints(Struct, frozen=True):
    """The values that the settings fix. The plan chooses those that are None. With `pools`, the model pools.

    With `shares_memory`, other models are loaded on the same machine when there is room, so the window does not grow.
    """

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
    flash_attn: bool | None = None
    shares_memory: bool = False
    swa_full: bool = True
    speculates: bool = True
    cache_ram: int | None = None
    pools: Pools | None = None


class DraftPlan(Struct, frozen=True):
    """The memory of a draft model, on one GPU and main memory. It is wholly on the GPU if there is one.

    `gpu` is the place of that GPU among those of the plan, None for none. `n_ctx` is the maximum number of tokens of a
    sequence for which it guesses. `devices` lists the memory on the GPU, if there is one, and in main memory.
    """

    gpu: int | None
    n_ctx: int
    n_parallel: int
    n_ubatch: int
    devices: tuple[DeviceUse, ...]

    def bytes_on(self, gpu: int | None) -> int:
        """Return the planned bytes on a GPU of the plan, or in main memory for None, without the process's own."""
        if gpu is not None and gpu != self.gpu:
            return 0
        use = self.devices[0 if gpu is not None else -1]
        return use.used_bytes - use.process_bytes

    def summary(self) -> dict[str, str | int]:
        """Return the fields of a line of the log."""
        sizes = [f"{size_text(use.used_bytes - use.process_bytes)} on {use.name}" for use in self.devices]
        return {"sequences": self.n_parallel, "n_ctx": self.n_ctx, "memory": " and ".join(sizes)}


class ProjectorPlan(Struct, frozen=True):
    """The memory of a projector. `gpu` is the place of its GPU among those of the plan, None for main memory.

    `rows_bytes` are for encoded images, in main memory.
    """

    gpu: int | None
    weights_bytes: int
    compute_bytes: int
    rows_bytes: int

    def bytes_on(self, gpu: int | None) -> int:
        """Return the planned bytes on a GPU of the plan, or in main memory for None."""
        own = self.weights_bytes + self.compute_bytes if gpu == self.gpu else 0
        return own + (self.rows_bytes if gpu is None else 0)

    def summary(self) -> dict[str, str]:
        """Return the fields of a line of the log."""
        where = "main memory" if self.gpu is None else f"GPU {self.gpu}"
        return {"memory": f"{size_text(self.weights_bytes + self.compute_bytes)} on {where}"}


class MemoryPlan(Struct, frozen=True):
    """`n_ctx` is the context of one request, `n_cells` that of all requests together; `reasons` explains each number.

    `n_rows` is the number of rows of logits in one step, with those of guessed tokens. `cache_ram` is the prompt cache
    in main memory, in MiB. `devices` lists the memory on each device. `weighed` says in one sentence how the memory led
    to the window. `degraded` has one line for each reduction that a failed load forced. `draft` is the plan of a draft
    model, whose memory counts as used by others in all other numbers. With `has_mtp`, the model's MTP layer guesses
    tokens; all other numbers include its `mtp_bytes`. With `pools`, the model pools: then `n_ctx` is the length of the
    longest input, `n_parallel` the number of inputs in one step, and `n_batch` the number of their tokens. `projector`
    is the plan of a projector, whose memory counts as used by others, too; `blind` is the reason why there is none
    although the model has one.
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
    flash_attn: bool
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_batch: int
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    n_rows: int = 0
    cache_ram: int = 0
    devices: tuple[DeviceUse, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    weighed: str = ""
    degraded: tuple[str, ...] = ()
    draft: DraftPlan | None = None
    has_mtp: bool = False
    mtp_bytes: int = 0
    pools: Pools | None = None
    projector: ProjectorPlan | None = None
    blind: str = ""


def describe(
    layout: Layout, reasons: dict[str, str], model: ModelShape, machine: Machine, constraints: Constraints
) -> MemoryPlan:
    """Make a plan from a layout, adding the numbers that do not affect memory."""
    devices = measure(model, machine, layout)
    n_threads = constraints.n_threads or machine.n_cores
    cache_ram, why_cache = _cache_ram(devices[-1], constraints)
    more = {
        "cache_ram": why_cache,
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
        flash_attn=layout.flash_attn,
        n_batch=layout.n_batch,
        n_ubatch=layout.n_ubatch,
        n_threads=n_threads,
        n_threads_batch=constraints.n_threads_batch or n_threads,
        weights_bytes=sum(device.weights_bytes for device in devices),
        kv_bytes=sum(device.kv_bytes for device in devices),
        compute_bytes=sum(device.compute_bytes for device in devices),
        n_rows=layout.n_rows,
        cache_ram=cache_ram,
        devices=devices,
        reasons=reasons | more,
        weighed=_weighed(layout, reasons, model, machine, devices),
        has_mtp=model.has_mtp,
        mtp_bytes=_total(devices) - _total(measure(model.without_mtp(), machine, layout)) if model.has_mtp else 0,
        pools=layout.pools,
    )


def _total(devices: Iterable[DeviceUse]) -> int:
    return sum(use.used_bytes for use in devices)


def _cache_ram(main: DeviceUse, constraints: Constraints) -> tuple[int, str]:
    """Return the size of the prompt cache in MiB, and the reason."""
    if constraints.pools is not None:
        return 0, "none, because a model that pools keeps no prompts"
    if constraints.cache_ram is not None:
        return constraints.cache_ram, "set"
    share = _CACHE_SHARE_OF_MANY if constraints.shares_memory else _CACHE_SHARE
    size = min(_MOST_CACHE_RAM, max(0, main.room_bytes - main.used_bytes) // share >> 20)
    return size, f"{'the most that is planned' if size == _MOST_CACHE_RAM else f'1/{share} of the main memory left'}"


def _weighed(
    layout: Layout, reasons: dict[str, str], model: ModelShape, machine: Machine, devices: tuple[DeviceUse, ...]
) -> str:
    """Return one sentence: the window, and the free memory, the weights and the KV memory that led to it."""
    uses = zip(machine.gpus, devices, strict=False)
    free = [f"{size_text(gpu.free_bytes)} on {gpu.name}" for gpu, use in uses if use.used_bytes]
    if devices[-1].n_layers or not free:
        free.append(f"{size_text(machine.free_bytes)} of main memory")
    # Layers differ in their KV entries, and recurrent ones have a state for each sequence.
    per_token = model.kv_bytes_per_token(layout.type_k, layout.type_v)
    sequences = "1 request" if layout.n_parallel == 1 else f"each of {layout.n_parallel} requests"
    trained = f"; the model was trained for {model.n_ctx_train}" if model.n_ctx_train > layout.n_ctx else ""
    weights = size_text(sum(use.weights_bytes for use in devices))
    if layout.pools is not None:
        rest = size_text(sum(use.kv_bytes + use.compute_bytes + use.other_bytes for use in devices))
        return (
            f"{layout.n_ctx} tokens for the longest input ({reasons['n_ctx']}): {' and '.join(free)} are free, the "
            f"weights take {weights}, and the computation of such an input {rest}{trained}."
        )
    return (
        f"{layout.n_ctx} tokens for {sequences} ({reasons['n_ctx']}): {' and '.join(free)} are free, the weights take "
        f"{weights}, and a token takes {per_token / 2**10:.0f} KiB of KV memory{trained}."
    )


def size_text(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 100 << 20 else f"{n_bytes / 2**20:.1f} MiB"
