"""How a model is laid out in memory: layers on the GPU, context, sequences. A pure decision with its reasons.

Knows nothing of llama.cpp: numbers of the model's header and of the machine in, a frozen plan out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from worker_gguf.errors import NotEnoughMemory

__all__ = ["Device", "Machine", "MemoryPlan", "ModelShape", "Wishes", "plan_memory"]

DEFAULT_N_CTX = 8192
MIN_N_CTX = 512
# Compute buffers, the runtime's own allocations and a margin, by device.
RESERVE_GPU_BYTES = 1 << 30
RESERVE_CPU_BYTES = 1 << 29

# Bytes of one KV element; quantised types count their scales (ggml's block sizes).
KV_BYTES = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
    "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides its memory. `n_head_kv` has one number a layer, 0 where a layer keeps no KV."""

    weights_bytes: int
    n_layers: int
    n_head_kv: tuple[int, ...]
    head_dim_k: int
    head_dim_v: int
    n_ctx_train: int

    def kv_bytes_per_token(self, type_k: str, type_v: str) -> float:
        per_head = self.head_dim_k * KV_BYTES[type_k] + self.head_dim_v * KV_BYTES[type_v]
        return sum(self.n_head_kv) * per_head


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU and its memory in bytes."""

    name: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """`n_cores` this process may use; `free_bytes` of main memory; the GPUs that the library can compute on."""

    n_cores: int
    free_bytes: int
    gpus: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings ask for; None is to be planned."""

    n_ctx: int | None = None
    n_parallel: int | None = None
    kv_unified: bool | None = None
    n_cells: int | None = None
    n_gpu_layers: int | None = None
    n_batch: int | None = None
    n_ubatch: int | None = None
    n_threads: int | None = None
    n_threads_batch: int | None = None
    type_k: str = "f16"
    type_v: str = "f16"


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`n_ctx` is one request's, `n_cells` all requests' together; `reasons` says for each number why."""

    n_gpu_layers: int
    n_ctx: int
    n_parallel: int
    n_cells: int
    kv_unified: bool
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_batch: int
    weights_bytes: int
    kv_bytes: int
    reasons: dict[str, str] = field(default_factory=dict)


class _Choice:
    """Collects numbers and why they are what they are."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def __call__(self, name: str, wish: int | None, planned: int, why: str) -> int:
        self.reasons[name] = "set" if wish is not None else why
        return planned if wish is None else wish


def plan_memory(model: ModelShape, machine: Machine, wishes: Wishes) -> MemoryPlan:
    """Choose what is not asked for. Raises NotEnoughMemory when not even one short sequence fits."""
    choose = _Choice()
    per_token = model.kv_bytes_per_token(wishes.type_k, wishes.type_v)
    n_parallel = choose("n_parallel", wishes.n_parallel, 8 if machine.gpus else 4, "default for this device")
    n_ctx = choose(
        "n_ctx", wishes.n_ctx, min(DEFAULT_N_CTX, model.n_ctx_train or DEFAULT_N_CTX), "the model's, at most 8192"
    )
    n_gpu_layers = _layers(model, machine, wishes, per_token * n_ctx * n_parallel, choose)
    budget = _kv_budget(model, machine, n_gpu_layers)
    if wishes.n_ctx is None:
        while n_ctx > MIN_N_CTX and per_token * n_ctx * n_parallel > budget:
            n_ctx //= 2
            choose.reasons["n_ctx"] = "halved until it fits in free memory"
    if wishes.n_parallel is None:
        while n_parallel > 1 and per_token * n_ctx * n_parallel > budget:
            n_parallel //= 2
            choose.reasons["n_parallel"] = "halved until it fits in free memory"
    unified = _unified(wishes, n_parallel, choose)
    n_cells = _cells(wishes, n_ctx, n_parallel, unified, choose)
    kv_bytes = round(per_token * n_cells)
    if kv_bytes > budget:
        raise NotEnoughMemory(
            f"The model needs {_gib(model.weights_bytes)} and {n_parallel} sequences of {n_ctx} tokens need "
            f"{_gib(kv_bytes)} more, but only {_gib(max(0, round(budget)))} is left beside the model. "
            "Take a smaller quantisation, lower N_CTX or N_PARALLEL, or set TYPE_K and TYPE_V to q8_0."
        )
    n_batch = _batch(machine, wishes, n_parallel, choose)
    n_threads = choose("n_threads", wishes.n_threads, machine.n_cores, "the cores this process may use")
    return MemoryPlan(
        n_gpu_layers=n_gpu_layers,
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        n_cells=n_cells,
        kv_unified=unified,
        n_batch=n_batch,
        n_ubatch=min(choose("n_ubatch", wishes.n_ubatch, 512, "default"), n_batch),
        n_threads=n_threads,
        n_threads_batch=choose("n_threads_batch", wishes.n_threads_batch, n_threads, "as N_THREADS"),
        weights_bytes=model.weights_bytes,
        kv_bytes=kv_bytes,
        reasons=choose.reasons,
    )


def _unified(wishes: Wishes, n_parallel: int, choose: _Choice) -> bool:
    if wishes.kv_unified is not None:
        choose.reasons["kv_unified"] = "set"
        return wishes.kv_unified
    if n_parallel == 1 or wishes.n_cells is not None:
        choose.reasons["kv_unified"] = "one sequence" if n_parallel == 1 else "N_CELLS shares one memory"
        return True
    choose.reasons["kv_unified"] = "a part for each sequence computes faster"
    return False


def _cells(wishes: Wishes, n_ctx: int, n_parallel: int, unified: bool, choose: _Choice) -> int:
    """Tokens of KV memory in all. Fewer than every sequence's whole context only in a shared memory."""
    most = n_ctx * n_parallel
    if wishes.n_cells is None or not unified:
        choose.reasons["n_cells"] = "the whole context for each sequence"
        return most
    choose.reasons["n_cells"] = "set, within one context and all contexts"
    return max(n_ctx, min(wishes.n_cells, most))


def _batch(machine: Machine, wishes: Wishes, n_parallel: int, choose: _Choice) -> int:
    """Tokens of a step: a token for each sequence must fit, and so must a whole N_UBATCH."""
    least = max(n_parallel, wishes.n_ubatch or 0)
    n_batch = choose("n_batch", wishes.n_batch, 2048 if machine.gpus else 512, "default for this device")
    if n_batch < least:
        choose.reasons["n_batch"] = "raised to hold N_UBATCH and a token of each sequence"
    return max(n_batch, least)


def _layers(model: ModelShape, machine: Machine, wishes: Wishes, kv_bytes: float, choose: _Choice) -> int:
    """Layers on the GPUs; -1 is all of them, the output layer included."""
    if wishes.n_gpu_layers is not None:
        choose.reasons["n_gpu_layers"] = "set"
        return wishes.n_gpu_layers
    if not machine.gpus:
        choose.reasons["n_gpu_layers"] = "no GPU that the library can use"
        return 0
    room = sum(max(0, gpu.free_bytes - RESERVE_GPU_BYTES) for gpu in machine.gpus)
    if model.weights_bytes + kv_bytes <= room:
        choose.reasons["n_gpu_layers"] = "everything fits on the GPU"
        return -1
    # The KV of a layer lies beside it. What may still shrink is only what was not asked for.
    per_token = model.kv_bytes_per_token(wishes.type_k, wishes.type_v)
    smallest = per_token * (wishes.n_ctx or MIN_N_CTX) * (wishes.n_parallel or 1)
    if model.weights_bytes + smallest <= room:
        choose.reasons["n_gpu_layers"] = "all layers fit with a shorter context"
        return -1
    per_layer = (model.weights_bytes + kv_bytes) / (model.n_layers + 1)
    n = int(room // per_layer)
    choose.reasons["n_gpu_layers"] = f"{_gib(room)} of GPU memory hold {n} of {model.n_layers} layers"
    return n


def _kv_budget(model: ModelShape, machine: Machine, n_gpu_layers: int) -> float:
    """Bytes left for KV where it will lie."""
    gpu_room = sum(max(0, gpu.free_bytes - RESERVE_GPU_BYTES) for gpu in machine.gpus)
    cpu_room = machine.free_bytes - RESERVE_CPU_BYTES
    if not machine.gpus or n_gpu_layers == 0:
        return cpu_room - model.weights_bytes
    if n_gpu_layers < 0 or n_gpu_layers > model.n_layers:
        return gpu_room - model.weights_bytes
    return gpu_room + cpu_room - model.weights_bytes


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"
