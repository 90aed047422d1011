"""The parameters with which the engine process opens a model, from the settings, the plan and the model's header."""

from __future__ import annotations

import os

from msgspec.structs import replace

from worker_gguf.engine.params import ContextParams, ModelParams, PoolingParams, VocabularySize
from worker_gguf.gguf import ArrayInfo, ModelHeader
from worker_gguf.plan import DraftPlan, MemoryPlan
from worker_gguf.plan.planning import first_visible, repacks
from worker_gguf.settings import Settings

__all__ = ["context_params", "draft_context", "draft_params", "model_params", "mtp_context", "vocabulary_size"]

_LONGEST_KEY = 127
"""Bytes of the key of an override, in llama.h."""


def vocabulary_size(header: ModelHeader) -> VocabularySize | None:
    """Return what llama.cpp must know to load a model without its vocabulary, or None if it needs it."""
    tokens, key = header.get("tokenizer.ggml.tokens"), f"{header.architecture}.vocab_size"
    if (
        len(key.encode()) > _LONGEST_KEY
        or not isinstance(tokens, ArrayInfo)
        or header.metadata.get(key, tokens.length) != tokens.length
    ):
        return None
    return VocabularySize(key, tokens.length)


def model_params(settings: Settings, plan: MemoryPlan, size: VocabularySize | None = None) -> ModelParams:
    """`size` is that of a vocabulary which is not loaded."""
    return ModelParams(
        n_gpu_layers=plan.n_gpu_layers,
        load_mode=settings.load_mode,
        split_mode=settings.split_mode,
        main_gpu=settings.main_gpu,
        tensor_split=plan.tensor_split,
        n_cpu_moe=plan.n_cpu_moe,
        repack=repacks(settings, os.uname().machine),
        has_mtp=plan.has_mtp,
        vocabulary_size=size,
    )


def context_params(settings: Settings, plan: MemoryPlan) -> ContextParams:
    n_batch, n_ubatch, pooling = plan.n_batch, plan.n_ubatch, None
    if (pools := plan.pools) is not None:
        pooling = PoolingParams(pools.pooling, plan.n_batch, pools.is_whole)
        if pools.is_whole:
            n_batch = n_ubatch = max(plan.n_ctx, plan.n_batch)
    return ContextParams(
        n_ctx=plan.n_ctx,
        n_parallel=plan.n_parallel,
        n_cells=plan.n_cells,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        n_threads=plan.n_threads,
        n_threads_batch=plan.n_threads_batch,
        unified=plan.kv_unified,
        flash_attn=settings.flash_attn if plan.flash_attn else "off",
        type_k=plan.type_k,
        type_v=plan.type_v,
        rope_freq_base=settings.rope_freq_base or 0.0,
        rope_freq_scale=settings.rope_freq_scale or 0.0,
        n_rows=plan.n_rows,
        swa_full=settings.swa_full,
        pooling=pooling,
    )


def mtp_context(settings: Settings, plan: MemoryPlan) -> ContextParams:
    """Return the parameters of the context of the MTP layer: that of the model, for smaller batches."""
    params = context_params(settings, plan)
    return replace(params, n_batch=max(plan.n_ubatch, plan.n_parallel), n_rows=plan.n_parallel)


def draft_params(settings: Settings, plan: DraftPlan, size: VocabularySize | None) -> ModelParams:
    return ModelParams(
        n_gpu_layers=0 if plan.gpu is None else -1,
        load_mode=settings.load_mode,
        split_mode="layer" if plan.gpu is None else "none",
        main_gpu=0 if plan.gpu is None else first_visible(settings) + plan.gpu,
        repack=repacks(settings, os.uname().machine),
        vocabulary_size=size,
    )


def draft_context(settings: Settings, plan: MemoryPlan) -> ContextParams | None:
    """Return the parameters of the draft model's context, which has a sequence for each one of the served model."""
    draft = plan.draft
    if draft is None:
        return None
    n_ctx = min(draft.n_ctx, plan.n_ctx)
    return ContextParams(
        n_ctx=n_ctx,
        n_parallel=plan.n_parallel,
        n_cells=n_ctx * plan.n_parallel,
        n_batch=draft.n_ubatch,
        n_ubatch=draft.n_ubatch,
        n_threads=plan.n_threads,
        n_threads_batch=plan.n_threads_batch,
        unified=plan.n_parallel == 1,
        flash_attn=settings.flash_attn,
        n_rows=plan.n_parallel,
    )
