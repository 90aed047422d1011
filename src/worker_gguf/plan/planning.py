"""Makes a memory plan from a model's header and the settings, for the start and for `worker-gguf inspect`.

The shape of a model is derived from the names and sizes of its tensors, so unknown architectures can be planned too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from worker_gguf.engine.machine import Machine
from worker_gguf.errors import NotEnoughMemory, SettingsError
from worker_gguf.gguf import ArrayInfo, ModelHeader, TensorInfo
from worker_gguf.gguf.adapter import changed_matrix
from worker_gguf.gguf.mtp import has_mtp_layer, n_left_out
from worker_gguf.gguf.pooling import Pools, has_memory, pools_of
from worker_gguf.plan import (
    Constraints,
    LayerShape,
    MemoryPlan,
    ModelShape,
    ProjectorWanted,
    plan_memory,
    plan_with_draft,
    sliding,
)
from worker_gguf.plan.projector import plan_beside
from worker_gguf.settings import Settings

__all__ = [
    "beyond_training",
    "constraints_of",
    "first_visible",
    "plan_for",
    "pools_for",
    "repacks",
    "shape_of",
    "visible",
    "wants_mtp",
    "with_adapters",
]

_LAYER: Final = re.compile(r"blk\.(\d+)\.(.+)")
_EXPERTS: Final = re.compile(r"ffn_(?:up|down|gate|gate_up)_(?:ch)?exps\.")
_KEEPS_KV: Final = re.compile(r"attn_(?:k|kv_a_mqa|k_b)\.")
_RECURRENT: Final = re.compile(r"(?:ssm_|shortconv|time_mix_)")
TOKEN_BYTES: Final = 290
"""Bytes that llama.cpp uses for one token of the vocabulary, merges included (measured with 128k tokens)."""


def plan_for(
    header: ModelHeader,
    machine: Machine,
    settings: Settings,
    *,
    shares_memory: bool = False,
    draft: ModelHeader | None = None,
    projector: ProjectorWanted | None = None,
) -> MemoryPlan:
    """Plan the memory. Raises NotEnoughMemory with a proposal that would fit.

    `draft` is the header of a draft model, which is planned beside the model. The model's own MTP layer is left out
    if the model fits only without it, or if so many requests run at once that no tokens are guessed. So is a
    `projector` that does not fit, unless it is required. Raises ModelInvalid if the model should pool and cannot, and
    SettingsError if a draft model should guess for one that does.
    """
    pools = pools_for(header, settings)
    if pools is not None and draft is not None:
        raise SettingsError("DRAFT_MODEL guesses tokens, and a model that pools draws none: unset one of the two.")
    constraints = constraints_of(settings, pools=pools, shares_memory=shares_memory)
    return plan_beside(
        projector,
        visible(machine, settings),
        constraints,
        lambda room, limits: _plan(header, room, settings, limits, draft),
    )


def _plan(
    header: ModelHeader, room: Machine, settings: Settings, constraints: Constraints, draft: ModelHeader | None
) -> MemoryPlan:
    model = shape_of(header, has_mtp=constraints.pools is None and wants_mtp(header, settings))
    if draft is not None:
        return plan_with_draft(model, shape_of(draft), room, constraints)
    if model.has_mtp:
        with suppress(NotEnoughMemory):
            plan = plan_memory(model, room, constraints)
            if plan.n_rows > plan.n_parallel:
                return plan
    return plan_memory(model.without_mtp(), room, constraints)


def pools_for(header: ModelHeader, settings: Settings) -> Pools | None:
    """Return how the model pools, or None if it generates text. Raises ModelInvalid if it should pool and cannot."""
    return pools_of(header, settings.pooling, header.name or "The model")


def with_adapters(header: ModelHeader, adapters: Sequence[ModelHeader]) -> ModelHeader:
    """Return the header of a model with the tensors of its LoRA adapters, for a plan of both.

    llama.cpp puts each of these tensors on the device of the matrix that it changes.
    """
    added = [tensor for adapter in adapters for tensor in adapter.tensors if changed_matrix(tensor)]
    return replace(header, tensors=(*header.tensors, *added)) if added else header


def wants_mtp(header: ModelHeader, settings: Settings) -> bool:
    """Return whether the MTP layer of the model is asked for, and there is one that can guess tokens."""
    return settings.speculation == "mtp" and has_mtp_layer(header)


def beyond_training(header: ModelHeader, plan: MemoryPlan) -> str | None:
    """Return a warning if a request may be longer than the model's training context, else None."""
    if not header.n_ctx_train or plan.n_ctx <= header.n_ctx_train:
        return None
    return (
        f"N_CTX={plan.n_ctx} is beyond the {header.n_ctx_train} tokens the model was trained for: expect worse answers "
        "beyond that length, unless ROPE_FREQ_SCALE or ROPE_FREQ_BASE is set for that length."
    )


def visible(machine: Machine, settings: Settings) -> Machine:
    """Return the machine with only the GPUs that the settings use."""
    if settings.split_mode != "none" or not machine.gpus:
        return machine
    if settings.main_gpu >= len(machine.gpus):
        raise SettingsError(f"MAIN_GPU={settings.main_gpu} does not exist: this machine has {len(machine.gpus)} GPUs.")
    return replace(machine, gpus=(machine.gpus[settings.main_gpu],))


def first_visible(settings: Settings) -> int:
    """Return the index of the first GPU that the settings use. It is the first one of `visible`."""
    return settings.main_gpu if settings.split_mode == "none" else 0


def constraints_of(settings: Settings, *, pools: Pools | None = None, shares_memory: bool = False) -> Constraints:
    """Return what the settings fix. `pools` says how the model pools, None if it generates."""
    return Constraints(
        pools=pools,
        shares_memory=shares_memory,
        n_ctx=settings.n_ctx,
        n_parallel=settings.n_parallel,
        kv_unified=settings.kv_unified,
        n_cells=settings.n_cells,
        n_gpu_layers=settings.n_gpu_layers,
        n_cpu_moe=settings.n_cpu_moe,
        tensor_split=settings.tensor_split,
        n_batch=settings.n_batch,
        n_ubatch=settings.n_ubatch,
        n_threads=settings.n_threads,
        n_threads_batch=settings.n_threads_batch,
        type_k=settings.type_k,
        type_v=settings.type_v,
        flash_attn=None if settings.flash_attn == "auto" else settings.flash_attn == "on",
        swa_full=settings.swa_full,
        speculates=settings.speculation != "off",
        cache_ram=settings.cache_ram,
    )


def repacks(settings: Settings, processor: str) -> bool:
    """Return whether the load rearranges the weights. `processor` is the value of `platform.machine()`.

    On x86, rearranging adds 0.5 s for each GB to the start and a second copy in memory; prompts become slower, and
    single answers 20 % faster (docs/cold-start.md has the measurement). No other processor was measured, so llama.cpp's
    default stays there: its ARM kernels are written for rearranged weights.
    """
    return settings.repack == "on" or (settings.repack == "auto" and processor not in ("x86_64", "AMD64"))


def shape_of(header: ModelHeader, *, has_mtp: bool = False) -> ModelShape:
    """Derive the shape that determines the model's memory from its header. With `has_mtp`, its MTP layer is loaded."""
    by_layer: dict[int, list[TensorInfo]] = defaultdict(list)
    outside: list[TensorInfo] = []
    for tensor in header.tensors:
        found = _LAYER.fullmatch(tensor.name)
        # A layer beyond the header's count means a damaged file, which the loader refuses. Here only its bytes count.
        if found and int(found[1]) < header.n_layers:
            by_layer[int(found[1])].append(tensor)
        else:
            outside.append(tensor)
    inputs = [tensor for tensor in outside if tensor.name.startswith(("token_embd", "per_layer_token_embd"))]
    tied = not any(tensor.name == "output.weight" for tensor in outside)
    output_bytes = _size(outside) - _size(inputs)
    if tied:
        output_bytes += _size(tensor for tensor in inputs if tensor.name == "token_embd.weight")
    n_used = header.n_experts_used if header.n_experts else 0
    widest = max(range(header.n_layers), key=lambda i: header.n_head[i], default=0)
    n_head = header.n_head[widest] if header.n_head else 0
    n_loaded = header.n_layers - (0 if has_mtp else n_left_out(header))
    layers = [_layer(header, index, by_layer[index], has_mtp=has_mtp) for index in range(n_loaded)]
    return ModelShape(
        layers=(*layers, *[LayerShape(0)] * (header.n_layers - n_loaded)),
        input_bytes=_size(inputs),
        output_bytes=output_bytes,
        tied=tied,
        n_ctx_train=header.n_ctx_train,
        n_vocab=header.n_vocab,
        n_embd=header.n_embd,
        n_ff=_n_ff(header, n_used),
        n_head=n_head,
        n_q=n_head * header.head_dim_k,
        n_kv=max(header.n_head_kv, default=0) * header.head_dim_k,
        n_experts_used=n_used,
        has_window=bool(header.get(sliding.KEY)),
        largest_tensor_bytes=max((t.size_bytes for layer in by_layer.values() for t in layer), default=0),
        vocabulary_bytes=header.n_vocab * TOKEN_BYTES if "tokenizer.ggml.tokens" in header.metadata else 0,
        has_mtp=has_mtp,
        n_positions=next((t.shape[1] for t in outside if t.name == "position_embd.weight" and len(t.shape) > 1), 0),
        adapts_output=any(tensor.name == "output.weight.lora_b" for tensor in outside),
    )


def _layer(header: ModelHeader, index: int, tensors: list[TensorInfo], *, has_mtp: bool) -> LayerShape:
    experts = _size(tensor for tensor in tensors if _EXPERTS.search(tensor.name))
    names = [tensor.name.partition(".")[2].partition(".")[2] for tensor in tensors]
    recurrent = any(_RECURRENT.match(name) for name in names)
    # A fused `attn_qkv` contains the keys, too, except in linear attention, which keeps a state instead.
    keeps_kv = any(_KEEPS_KV.match(name) for name in names) or (
        not recurrent and any(name.startswith("attn_qkv") for name in names)
    )
    shared = _integer(header, "attention.shared_kv_layers")
    extra = 0 if has_mtp else _integer(header, "nextn_predict_layers")
    if index >= header.n_layers - max(shared, extra):
        keeps_kv = False
    keeps_kv = keeps_kv and has_memory(header)
    k = v = 0
    window = sliding.window_of(header, index)
    if keeps_kv:
        n_heads = header.n_head_kv[index] if header.n_head_kv else 0
        windowed = "_swa" if window else ""
        k = n_heads * (_integer(header, f"attention.key_length{windowed}") or header.head_dim_k)
        # Multi-head latent attention stores one compressed row; keys and values are computed from it.
        is_latent = _integer(header, "attention.key_length_mla") > 0
        v = 0 if is_latent else n_heads * (_integer(header, f"attention.value_length{windowed}") or header.head_dim_v)
    state = _state_bytes(header) if recurrent else 0
    return LayerShape(_size(tensors) - experts, experts, k, v, state, window)


def _state_bytes(header: ModelHeader) -> int:
    """Return the bytes that a recurrent layer keeps for each sequence: the last inputs of its convolution and its
    state, both in f32.
    """
    if cache := _integer(header, "shortconv.l_cache"):
        return 4 * header.n_embd * (cache - 1)
    if head := _integer(header, "wkv.head_size"):
        return 4 * header.n_embd * (head + max(2, _integer(header, "token_shift_count")))
    inner, state = _integer(header, "ssm.inner_size"), _integer(header, "ssm.state_size")
    rows = inner + 2 * _integer(header, "ssm.group_count") * state
    return 4 * (max(0, _integer(header, "ssm.conv_kernel") - 1) * rows + state * inner)


def _n_ff(header: ModelHeader, n_experts_used: int) -> int:
    """Return the width of the feed-forward part for one token, over all experts that the token uses."""
    dense = max(header.n_ff, default=0)
    if not n_experts_used:
        return dense
    shapes = [t.shape for t in header.tensors if "ffn_down_exps.weight" in t.name or "ffn_down_chexps.weight" in t.name]
    experts = max((shape[0] for shape in shapes), default=dense) * n_experts_used
    has_dense = any(".ffn_down.weight" in tensor.name for tensor in header.tensors)
    return max(experts, dense if has_dense else 0)


def _integer(header: ModelHeader, key: str) -> int:
    value = header.get(key)
    if isinstance(value, ArrayInfo):
        return max((int(item) for item in value.values or ()), default=0)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _size(tensors: Iterable[TensorInfo]) -> int:
    return sum(tensor.size_bytes for tensor in tensors)
