"""Chooses a layout: the best that fits, in a stated order of what is given up first.

Fewer sequences (to 2), a shorter context (to 4096), one sequence, a q8_0 KV cache, a still shorter context. With GPUs
all of that is tried with the whole model on them (to 2048 tokens) before experts, and then layers, stay behind.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from worker_gguf.engine.plan.shape import ModelShape
from worker_gguf.engine.plan.usage import DeviceUse, Layout, Machine, even_split, measure
from worker_gguf.errors import NotEnoughMemory

__all__ = ["MIN_N_CTX", "USEFUL_N_CTX", "MemoryPlan", "Wishes", "describe", "plan_memory"]

DEFAULT_N_CTX: Final = 8192
GOOD_N_CTX: Final = 4096
USEFUL_N_CTX: Final = 2048
MIN_N_CTX: Final = 512
HALVED: Final = "halved until it fits in free memory"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings ask for; None is to be planned."""

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
    """`n_ctx` is one request's, `n_cells` all requests' together; `reasons` says for each number why.

    `devices` is what each will hold. `degraded` has a sentence for each step back that the load itself forced.
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


@dataclass(frozen=True, slots=True)
class _Choice:
    """A layout under way, and why its numbers are what they are."""

    layout: Layout
    reasons: dict[str, str]

    def with_(self, why: str, **changes: object) -> _Choice:
        return _Choice(replace(self.layout, **changes), self.reasons | dict.fromkeys(changes, why))  # type: ignore[arg-type]


def plan_memory(model: ModelShape, machine: Machine, wishes: Wishes) -> MemoryPlan:
    """Choose what is not asked for. Raises NotEnoughMemory, with what would fit, when not even the least does."""
    found = _search(model, machine, wishes)
    if found is None:
        raise NotEnoughMemory(_what_would_fit(model, machine, wishes))
    return describe(found.layout, found.reasons, model, machine, wishes)


def describe(
    layout: Layout, reasons: dict[str, str], model: ModelShape, machine: Machine, wishes: Wishes
) -> MemoryPlan:
    """Put a layout and the numbers that need no memory into a plan."""
    devices = measure(model, machine, layout)
    n_threads = wishes.n_threads or machine.n_cores
    more = {
        "n_threads": "set" if wishes.n_threads else "the cores this process may use",
        "n_threads_batch": "set" if wishes.n_threads_batch else "as N_THREADS",
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
        n_threads_batch=wishes.n_threads_batch or n_threads,
        weights_bytes=sum(device.weights_bytes for device in devices),
        kv_bytes=sum(device.kv_bytes for device in devices),
        compute_bytes=sum(device.compute_bytes for device in devices),
        devices=devices,
        reasons=reasons | more,
    )


def _first(model: ModelShape, machine: Machine, wishes: Wishes) -> _Choice:
    """What is asked for, and the defaults for the rest."""
    reasons: dict[str, str] = {}

    def choose(name: str, wish: int | None, planned: int, why: str) -> int:
        reasons[name] = "set" if wish is not None else why
        return planned if wish is None else wish

    device = "default for this device"
    n_parallel = choose("n_parallel", wishes.n_parallel, 8 if machine.gpus else 4, device)
    longest = min(DEFAULT_N_CTX, model.n_ctx_train or DEFAULT_N_CTX)
    n_ctx = choose("n_ctx", wishes.n_ctx, longest, f"the model's, at most {DEFAULT_N_CTX}")
    n_batch = choose("n_batch", wishes.n_batch, 2048 if machine.gpus else 512, device)
    least = max(n_parallel, wishes.n_ubatch or 0)
    if n_batch < least:
        n_batch, reasons["n_batch"] = least, "raised to hold N_UBATCH and a token of each sequence"
    n_ubatch = min(choose("n_ubatch", wishes.n_ubatch, 512, "default"), n_batch)
    why = "everything fits on the GPU" if machine.gpus else "no GPU that the library can use"
    n_gpu_layers = choose("n_gpu_layers", wishes.n_gpu_layers, -1 if machine.gpus else 0, why)
    unified, reasons["kv_unified"] = _unified(wishes, n_parallel)
    reasons["n_cells"] = "set, at least one context" if wishes.n_cells else "the whole context for each sequence"
    reasons["type_k"] = "set" if wishes.type_k else "default"
    reasons["type_v"] = "set" if wishes.type_v else "default"
    n_cpu_moe = wishes.n_cpu_moe or 0
    if model.experts_bytes and machine.gpus:
        choose("n_cpu_moe", wishes.n_cpu_moe, 0, "the experts fit on the GPU")
    layout = Layout(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        kv_unified=unified,
        n_cells=wishes.n_cells,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        type_k=wishes.type_k or "f16",
        type_v=wishes.type_v or "f16",
        flash_attn=wishes.flash_attn,
        n_gpu_layers=n_gpu_layers,
        n_cpu_moe=n_cpu_moe,
        tensor_split=wishes.tensor_split or (),
    )
    return _Choice(layout, reasons)


def _unified(wishes: Wishes, n_parallel: int) -> tuple[bool, str]:
    if wishes.kv_unified is not None:
        return wishes.kv_unified, "set"
    if wishes.n_cells is not None:
        return True, "N_CELLS shares one memory"
    return n_parallel == 1, "one sequence" if n_parallel == 1 else "a part for each sequence computes faster"


def _search(model: ModelShape, machine: Machine, wishes: Wishes) -> _Choice | None:
    first = _first(model, machine, wishes)
    fitted = _Fitting(model, machine, wishes)
    for least_n_ctx in (USEFUL_N_CTX, MIN_N_CTX):
        rungs = [rung for rung in _rungs(first, wishes) if rung.layout.n_ctx >= least_n_ctx] or [first]
        for place in _placements(model, machine, wishes, first):
            tried = rungs if place is _as_it_is else _few(rungs, wishes)
            if found := next((choice for rung in tried if (choice := place(fitted, rung))), None):
                return found
    return None


def _few(rungs: list[_Choice], wishes: Wishes) -> list[_Choice]:
    """Where weights stay behind, the memory of many sequences would push out still more of them."""
    few = [rung for rung in rungs if rung.layout.n_parallel <= 2]
    if wishes.n_parallel is not None or not few:
        return rungs
    why = "few, so that more of the model lies on the GPU"
    return [_Choice(rung.layout, rung.reasons | {"n_parallel": why}) for rung in few]


def _rungs(first: _Choice, wishes: Wishes) -> Iterator[_Choice]:
    """What to give up of the KV memory, step by step."""
    yield first
    now = first

    def fewer(least: int) -> Iterator[_Choice]:
        nonlocal now
        while wishes.n_parallel is None and now.layout.n_parallel > least:
            n_parallel = now.layout.n_parallel // 2
            now = now.with_(HALVED, n_parallel=n_parallel)
            unified, why = _unified(wishes, n_parallel)
            now = now.with_(why, kv_unified=unified)
            yield now

    def shorter(least: int) -> Iterator[_Choice]:
        nonlocal now
        while wishes.n_ctx is None and now.layout.n_ctx > least:
            now = now.with_(HALVED, n_ctx=max(least, now.layout.n_ctx // 2))
            yield now

    yield from fewer(2)
    yield from shorter(GOOD_N_CTX)
    yield from fewer(1)
    if wishes.type_k is None and wishes.type_v is None and wishes.flash_attn:
        now = now.with_("half the memory of f16", type_k="q8_0", type_v="q8_0")
        yield now
    yield from shorter(MIN_N_CTX)


@dataclass(frozen=True, slots=True)
class _Fitting:
    """Says whether choices fit, with the layers shared out over the GPUs."""

    model: ModelShape
    machine: Machine
    wishes: Wishes

    def complete(self, choice: _Choice) -> _Choice | None:
        """The choice with its split if it fits."""
        if self.wishes.tensor_split is None and (split := even_split(self.model, self.machine, choice.layout)):
            choice = choice.with_("layers shared out by free memory", tensor_split=split)
        return choice if all(use.fits for use in measure(self.model, self.machine, choice.layout)) else None


_Place = Callable[[_Fitting, _Choice], _Choice | None]


def _placements(model: ModelShape, machine: Machine, wishes: Wishes, first: _Choice) -> list[_Place]:
    """Where the weights may lie, the fastest first."""
    places: list[_Place] = [_as_it_is]
    if not machine.gpus or first.layout.n_gpu_layers == 0:
        return places
    free_experts = bool(model.experts_bytes) and wishes.n_cpu_moe is None
    if free_experts:
        places.append(_without_some_experts)
    if wishes.n_gpu_layers is None:
        places.append(_without_experts_and_some_layers if free_experts else _without_some_layers)
        places.append(_without_gpu)
    return places


def _as_it_is(fitting: _Fitting, rung: _Choice) -> _Choice | None:
    return fitting.complete(rung)


def _without_some_experts(fitting: _Fitting, rung: _Choice) -> _Choice | None:
    """The experts of as few layers as needed stay in main memory; more of them there is never more on a GPU."""
    n_layers = fitting.model.n_layers

    if fitting.wishes.n_gpu_layers is None:
        rung = rung.with_("all, without some experts", n_gpu_layers=-1)

    def of(n: int) -> _Choice:
        return rung.with_(f"the experts of {n} of {n_layers} layers stay in main memory", n_cpu_moe=n)

    n = bisect_left(range(1, n_layers), True, key=lambda n: fitting.complete(of(n)) is not None) + 1
    return fitting.complete(of(n))


def _without_some_layers(fitting: _Fitting, rung: _Choice) -> _Choice | None:
    n_layers = fitting.model.n_layers

    def of(n: int) -> _Choice:
        return rung.with_(f"GPU memory holds {n} of {n_layers} layers", n_gpu_layers=n)

    gpus = [*range(len(fitting.machine.gpus))]

    def overflows(n: int) -> bool:
        choice = of(n)
        if fitting.wishes.tensor_split is None:
            choice = choice.with_("", tensor_split=even_split(fitting.model, fitting.machine, choice.layout))
        uses = measure(fitting.model, fitting.machine, choice.layout)
        return any(not uses[gpu].fits for gpu in gpus)

    n = bisect_right(range(1, n_layers + 1), False, key=overflows)
    return fitting.complete(of(n)) if n else None


def _without_experts_and_some_layers(fitting: _Fitting, rung: _Choice) -> _Choice | None:
    return _without_some_layers(fitting, rung.with_("no experts fit on the GPU", n_cpu_moe=fitting.model.n_layers))


def _without_gpu(fitting: _Fitting, rung: _Choice) -> _Choice | None:
    return fitting.complete(rung.with_("not one layer fits on the GPU", n_gpu_layers=0))


def _what_would_fit(model: ModelShape, machine: Machine, wishes: Wishes) -> str:
    """One sentence of what is missing, one of what would fit."""
    layout = _first(model, machine, wishes).layout
    uses = measure(model, machine, layout)
    needed = sum(use.used_bytes for use in uses if not use.fits)
    room = sum(use.room_bytes for use in uses if not use.fits)
    where = " and ".join(use.name for use in uses if not use.fits)
    said = (
        f"The model needs {_gib(needed)} with {_sequences(layout)}, of which {_gib(model.weights_bytes)} are weights, "
        f"and {where} {'have' if ' and ' in where else 'has'} room for {_gib(room)}."
    )
    eased = replace(
        wishes,
        n_ctx=None,
        n_parallel=None,
        n_gpu_layers=None,
        n_cpu_moe=None,
        tensor_split=None,
        type_k=None,
        type_v=None,
    )
    if eased != wishes and (found := _search(model, machine, eased)):
        best = found.layout
        pairs = [("N_PARALLEL", best.n_parallel, layout.n_parallel), ("N_CTX", best.n_ctx, layout.n_ctx)]
        if machine.gpus:
            pairs += [("N_GPU_LAYERS", best.n_gpu_layers, layout.n_gpu_layers)]
            pairs += [("N_CPU_MOE", best.n_cpu_moe, layout.n_cpu_moe)]
        types = [("TYPE_K", best.type_k, layout.type_k), ("TYPE_V", best.type_v, layout.type_v)]
        changes = [f"{name}={value}" for name, value, before in (*pairs, *types) if value != before]
        return f"{said} {' '.join(changes)} would fit; so might a smaller quantisation."
    room = sum(use.room_bytes for use in uses)
    least = replace(layout, n_ctx=MIN_N_CTX, n_parallel=1, kv_unified=True)
    beside = sum(use.used_bytes - use.weights_bytes for use in measure(model, machine, least))
    return (
        f"{said} Even N_PARALLEL=1 N_CTX={MIN_N_CTX} does not fit: take a smaller quantisation, of at most "
        f"{_gib(max(0, room - beside))}, or a larger machine."
    )


def _sequences(layout: Layout) -> str:
    return f"{layout.n_parallel} sequence{'s' if layout.n_parallel > 1 else ''} of {layout.n_ctx} tokens"


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"
