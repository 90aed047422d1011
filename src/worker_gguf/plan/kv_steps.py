"""The first choice of a layout, and the steps that give up KV memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.engine.machine import Machine
from worker_gguf.gguf.pooling import Pools
from worker_gguf.plan.layout import CELL_PAD, Layout
from worker_gguf.plan.memory_plan import Constraints
from worker_gguf.plan.shape import ModelShape

__all__ = ["DEFAULT_N_CTX", "MIN_N_CTX", "Choice", "first_choice", "kv_steps"]

DEFAULT_N_CTX: Final = 8192
GOOD_N_CTX: Final = 4096
MIN_N_CTX: Final = 512
PLAIN_ATTENTION_N_CTX: Final = 2048
"""The N_CTX from which plain attention may be planned: with shorter ones it is no faster (docs/memory.md)."""
CPU_PACKED: Final = {False: 384, True: 256}
GPU_PACKED: Final = {False: 2048, True: 512}
"""The tokens of a step of a model that pools, without and with a memory.

Encoders: docs/embeddings.md has the measurement on a processor. A model with a memory also computes its logits, for
each token and in vain, and llama.cpp copies them to main memory: 0.6 MB a token with 151k tokens in the vocabulary. So
its steps are shorter.
"""
MOST_WITH_STATE: Final = 8
"""The inputs of a step if each has a recurrent state, which takes memory even when it is not used."""
SHARED_ROW_BYTES: Final = 2 << 30
"""Where several models share the memory, the rows of the longest input take at most this. llama.cpp reserves a row of
logits for each token, even in an encoder, which computes none.
"""
HALVED: Final = "halved until it fits in free memory"


class Choice(Struct, frozen=True):
    """A candidate layout, with the reason for each of its numbers.

    `gave_up` tells that it has less than the first choice, because memory is short.
    """

    layout: Layout
    reasons: dict[str, str]
    gave_up: bool = False

    def changed(self, why: str, **changes: object) -> Choice:
        layout = replace(self.layout, **changes)
        return Choice(layout, self.reasons | dict.fromkeys(changes, why), self.gave_up)

    def reduced(self, why: str, **changes: object) -> Choice:
        return replace(self.changed(why, **changes), gave_up=True)


def first_choice(model: ModelShape, machine: Machine, constraints: Constraints) -> Choice:
    """Return the layout with the values that are set and with the defaults for the others."""
    if constraints.pools is not None:
        return _first_that_pools(model, machine, constraints, constraints.pools)
    reasons: dict[str, str] = {}

    def choose(name: str, constraint: int | None, default: int, why: str) -> int:
        reasons[name] = "set" if constraint is not None else why
        return default if constraint is None else constraint

    device = "default for this device"
    n_parallel = choose("n_parallel", constraints.n_parallel, 8 if machine.gpus else 4, device)
    longest = min(DEFAULT_N_CTX, model.n_ctx_train or DEFAULT_N_CTX)
    n_ctx = choose("n_ctx", constraints.n_ctx, longest, "the default")
    if constraints.n_ctx and model.n_ctx_train and constraints.n_ctx > model.n_ctx_train:
        reasons["n_ctx"] = f"set, beyond the {model.n_ctx_train} tokens the model was trained for"
    n_batch = choose("n_batch", constraints.n_batch, 2048 if machine.gpus else 512, device)
    least = max(n_parallel, constraints.n_ubatch or 0)
    if n_batch < least:
        n_batch, reasons["n_batch"] = least, "raised to hold N_UBATCH tokens and one token of each sequence"
    n_ubatch = min(choose("n_ubatch", constraints.n_ubatch, 512, "default"), n_batch)
    why = "everything fits on the GPU" if machine.gpus else "llama.cpp can use no GPU here"
    n_gpu_layers = choose("n_gpu_layers", constraints.n_gpu_layers, -1 if machine.gpus else 0, why)
    unified, reasons["kv_unified"] = _unified(constraints, n_parallel)
    reasons["n_cells"] = (
        "set, but never less than one context" if constraints.n_cells else "the whole context for each sequence"
    )
    reasons["type_k"] = "set" if constraints.type_k else "default"
    reasons["type_v"] = "set" if constraints.type_v else "default"
    flash_attn, reasons["flash_attn"] = _flash_attn(model, machine, constraints, n_ctx)
    n_cpu_moe = constraints.n_cpu_moe or 0
    if model.experts_bytes and machine.gpus:
        choose("n_cpu_moe", constraints.n_cpu_moe, 0, "the experts fit on the GPU")
    layout = Layout(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        kv_unified=unified,
        n_cells=constraints.n_cells,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        type_k=constraints.type_k or "f16",
        type_v=constraints.type_v or "f16",
        flash_attn=flash_attn,
        swa_full=constraints.swa_full,
        speculates=constraints.speculates,
        n_gpu_layers=n_gpu_layers,
        n_cpu_moe=n_cpu_moe,
        tensor_split=constraints.tensor_split or (),
    )
    return Choice(layout, reasons)


def _first_that_pools(model: ModelShape, machine: Machine, constraints: Constraints, pools: Pools) -> Choice:
    """Return the layout of a model that pools: one memory, and steps of several inputs."""
    on_gpu = bool(machine.gpus) and constraints.n_gpu_layers != 0
    packed = (GPU_PACKED if on_gpu else CPU_PACKED)[pools.has_memory]
    n_batch, why_batch = constraints.n_batch or constraints.n_ubatch or packed, "the most inputs per second"
    state_bytes = sum(layer.state_bytes for layer in model.layers)
    most = MOST_WITH_STATE if state_bytes else max(64, min(256, n_batch // 16))
    n_parallel = constraints.n_parallel or most
    if n_parallel > n_batch:
        n_batch, why_batch = n_parallel, "raised to hold one token of each input"
    n_ctx, why_ctx = _longest_input(model, constraints, pools)
    flash_attn = constraints.flash_attn is not False
    layout = Layout(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        kv_unified=True,
        n_batch=n_batch,
        n_ubatch=n_batch if pools.is_whole else min(constraints.n_ubatch or n_batch, n_batch),
        type_k=constraints.type_k or "f16",
        type_v=constraints.type_v or "f16",
        flash_attn=flash_attn,
        swa_full=constraints.swa_full,
        speculates=False,
        n_gpu_layers=constraints.n_gpu_layers if constraints.n_gpu_layers is not None else -1 if machine.gpus else 0,
        n_cpu_moe=constraints.n_cpu_moe or 0,
        tensor_split=constraints.tensor_split or (),
        pools=pools,
    )
    where = "everything fits on the GPU" if machine.gpus else "llama.cpp can use no GPU here"
    reasons = {
        "n_parallel": "set" if constraints.n_parallel else "the most inputs of a step",
        "n_ctx": why_ctx,
        "n_batch": "set" if n_batch in (constraints.n_batch, constraints.n_ubatch) else why_batch,
        "n_ubatch": "the same as N_BATCH: an input is computed at once" if pools.is_whole else "at most N_BATCH",
        "n_gpu_layers": "set" if constraints.n_gpu_layers is not None else where,
        "kv_unified": "always, for a model that pools",
        "n_cells": "an input and a step, always, for a model that pools",
        "type_k": "set" if constraints.type_k else "default",
        "type_v": "set" if constraints.type_v else "default",
        "flash_attn": "set" if constraints.flash_attn is not None else "the inputs of a step do not see each other",
    }
    return Choice(layout, reasons)


def _longest_input(model: ModelShape, constraints: Constraints, pools: Pools) -> tuple[int, str]:
    """Return the length of the longest input, from which it may grow, and the reason."""
    if constraints.n_ctx is not None:
        if model.n_positions and constraints.n_ctx > model.n_positions:
            return model.n_positions, f"set to {constraints.n_ctx}, but the model has no more positions"
        if model.n_ctx_train and constraints.n_ctx > model.n_ctx_train:
            return constraints.n_ctx, f"set, beyond the {model.n_ctx_train} tokens the model was trained for"
        return constraints.n_ctx, "set"
    longest = min(DEFAULT_N_CTX, model.n_ctx_train or DEFAULT_N_CTX)
    most = SHARED_ROW_BYTES // (4 * (model.n_vocab + model.n_embd) or 1) // CELL_PAD * CELL_PAD
    if constraints.shares_memory and pools.is_whole and longest > max(MIN_N_CTX, most):
        return max(MIN_N_CTX, most), "the default where several models share the memory"
    return longest, "the default"


def _unified(constraints: Constraints, n_parallel: int) -> tuple[bool, str]:
    if constraints.kv_unified is not None:
        return constraints.kv_unified, "set"
    if constraints.n_cells is not None:
        return True, "N_CELLS needs a shared memory"
    return n_parallel == 1, "one sequence" if n_parallel == 1 else "separate parts for the sequences compute faster"


def _flash_attn(model: ModelShape, machine: Machine, constraints: Constraints, n_ctx: int) -> tuple[bool, str]:
    """Choose flash attention.

    On a processor, llama.cpp's kernel is slower than plain attention if no heads share keys and values: twice as slow
    for a token with 4096 tokens before it, but not with a few hundred (docs/memory.md has the measurements). Where
    heads share them, it is as fast or faster.
    """
    if constraints.flash_attn is not None:
        return constraints.flash_attn, "set"
    if {constraints.type_k or "f16", constraints.type_v or "f16"} - {"f16", "bf16", "f32"}:
        return True, "a quantised KV cache needs it"
    if machine.gpus:
        return True, "default for this device"
    if model.n_kv < model.n_q:
        return True, "several heads share the keys and values of one"
    if n_ctx < PLAIN_ATTENTION_N_CTX:
        return True, "short contexts are no slower with it"
    return False, "on a processor, long contexts of this model are faster without it"


def kv_steps(first: Choice, constraints: Constraints) -> Iterator[Choice]:
    """Yield the first choice, then choices with less and less KV memory. Values that are set stay."""
    yield first
    now = first
    if constraints.flash_attn is None and not now.layout.flash_attn:
        now = now.changed("it needs less memory", flash_attn=True)
        yield now

    def fewer(least: int) -> Iterator[Choice]:
        nonlocal now
        while constraints.n_parallel is None and now.layout.n_parallel > least:
            n_parallel = now.layout.n_parallel // 2
            now = now.reduced(HALVED, n_parallel=n_parallel)
            unified, why = _unified(constraints, n_parallel)
            now = now.changed(why, kv_unified=unified)
            yield now

    def shorter(least: int) -> Iterator[Choice]:
        nonlocal now
        while constraints.n_ctx is None and now.layout.n_ctx > least:
            now = now.reduced(HALVED, n_ctx=max(least, now.layout.n_ctx // 2))
            yield now

    if constraints.pools is not None:
        yield from shorter(MIN_N_CTX)
        return
    yield from fewer(2)
    yield from shorter(GOOD_N_CTX)
    yield from fewer(1)
    if constraints.type_k is None and constraints.type_v is None and constraints.flash_attn is not False:
        now = now.reduced("half the memory of f16", type_k="q8_0", type_v="q8_0")
        yield now
    yield from shorter(MIN_N_CTX)
