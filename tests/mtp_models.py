"""Tiny models with an MTP layer: two layers and one that predicts the token after the next, with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from bench import gguf_file
from bench.gguf_file import Tensor, TensorType, Value
from tests import tiny_models as tiny

__all__ = ["Architecture", "write_mtp"]

Architecture = Literal["glm4moe", "deepseek2"]

_N_LAYERS, _N_EXPERTS, _N_FF_EXPERT = 2, 4, 32
_N_EMBD, _N_HEAD, _N_FF, _HEAD = 32, 2, 64, 16
_RANK, _ROTATED = 16, 8  # of a compressed row of multi-head latent attention
_COMMON: dict[str, Value] = {
    "attention.head_count_kv": 1,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "expert_count": _N_EXPERTS,
    "expert_used_count": 2,
    "expert_shared_count": 1,
    "expert_feed_forward_length": _N_FF_EXPERT,
    "leading_dense_block_count": 1,
    "expert_weights_norm": True,
    "expert_gating_func": 2,
    "nextn_predict_layers": 1,
}
_KEYS: dict[Architecture, dict[str, Value]] = {
    "glm4moe": {
        "attention.key_length": _HEAD,
        "attention.value_length": _HEAD,
        "rope.dimension_count": _HEAD,
    },
    "deepseek2": {
        "attention.key_length": _RANK + _ROTATED,
        "attention.value_length": _RANK,
        "attention.key_length_mla": _HEAD,
        "attention.value_length_mla": _HEAD,
        "attention.q_lora_rank": _RANK,
        "attention.kv_lora_rank": _RANK,
        "rope.dimension_count": _ROTATED,
    },
}


def write_mtp(
    path: Path, *, architecture: Architecture = "glm4moe", agreement: float = 0.0, with_layer: bool = True
) -> Path:
    """Write a model of the shape of GLM-4.5 or DeepSeek V3. With a larger `agreement`, its MTP layer guesses better.

    The layers of a model with an agreement of 1 add nothing to a token's embedding, and its MTP layer passes on that
    of the last token, so that all guesses are right. Without `with_layer`, the header names an MTP layer that the file
    lacks, as some files have it.
    """
    keys = {f"{architecture}.{key}": value for key, value in (_COMMON | _KEYS[architecture]).items()}
    tensors = list(_tensors(np.random.default_rng(21), architecture, 1.0 - agreement))
    if not with_layer:
        tensors = [tensor for tensor in tensors if not tensor.name.startswith(f"blk.{_N_LAYERS}.")]
    metadata = tiny._common(architecture, _N_LAYERS + 1) | keys | tiny._byte_vocabulary()
    gguf_file.write(path, metadata, tensors)
    return path


def _tensors(rng: np.random.Generator, architecture: Architecture, gain: float) -> Iterator[Tensor]:
    """`gain` is the spread of what a layer adds to a row."""
    random = partial(tiny._random, rng)
    yield from tiny._ends(rng)
    for layer in range(_N_LAYERS + 1):
        prefix = f"blk.{layer}."
        yield tiny._constant(f"{prefix}attn_norm.weight", _N_EMBD, 1.0)
        norm = "post_attention_norm" if architecture == "glm4moe" else "ffn_norm"
        yield tiny._constant(f"{prefix}{norm}.weight", _N_EMBD, 1.0)
        yield from _attention(rng, prefix) if architecture == "glm4moe" else _latent_attention(rng, prefix)
        yield random(f"{prefix}attn_output.weight", _N_HEAD * _HEAD, _N_EMBD, gain=gain)
        if layer == 0:
            yield from _feed_forward(rng, prefix, "", _N_FF, gain)
        else:
            yield random(f"{prefix}ffn_gate_inp.weight", _N_EMBD, _N_EXPERTS)
            yield tiny._constant(f"{prefix}exp_probs_b.bias", _N_EXPERTS, 0.0)
            yield from _feed_forward(rng, prefix, "_exps", _N_FF_EXPERT, gain, _N_EXPERTS)
            yield from _feed_forward(rng, prefix, "_shexp", _N_FF_EXPERT, gain)
    prefix = f"blk.{_N_LAYERS}.nextn."
    yield _projection(rng, f"{prefix}eh_proj.weight", gain)
    for norm in ("enorm", "hnorm", "shared_head_norm"):
        yield tiny._constant(f"{prefix}{norm}.weight", _N_EMBD, 1.0)


def _attention(rng: np.random.Generator, prefix: str) -> Iterator[Tensor]:
    yield tiny._random(rng, f"{prefix}attn_q.weight", _N_EMBD, _N_HEAD * _HEAD, gain=2.0)
    yield tiny._random(rng, f"{prefix}attn_k.weight", _N_EMBD, _HEAD)
    yield tiny._random(rng, f"{prefix}attn_v.weight", _N_EMBD, _HEAD)


def _latent_attention(rng: np.random.Generator, prefix: str) -> Iterator[Tensor]:
    yield tiny._random(rng, f"{prefix}attn_q_a.weight", _N_EMBD, _RANK)
    yield tiny._constant(f"{prefix}attn_q_a_norm.weight", _RANK, 1.0)
    yield tiny._random(rng, f"{prefix}attn_q_b.weight", _RANK, _N_HEAD * _HEAD, gain=2.0)
    yield tiny._random(rng, f"{prefix}attn_kv_a_mqa.weight", _N_EMBD, _RANK + _ROTATED)
    yield tiny._constant(f"{prefix}attn_kv_a_norm.weight", _RANK, 1.0)
    yield tiny._random(rng, f"{prefix}attn_k_b.weight", _HEAD - _ROTATED, _RANK, _N_HEAD)
    yield tiny._random(rng, f"{prefix}attn_v_b.weight", _RANK, _HEAD, _N_HEAD)


def _feed_forward(
    rng: np.random.Generator, prefix: str, suffix: str, n_ff: int, gain: float, *n_experts: int
) -> Iterator[Tensor]:
    yield tiny._random(rng, f"{prefix}ffn_gate{suffix}.weight", _N_EMBD, n_ff, *n_experts)
    yield tiny._random(rng, f"{prefix}ffn_up{suffix}.weight", _N_EMBD, n_ff, *n_experts)
    yield tiny._random(rng, f"{prefix}ffn_down{suffix}.weight", n_ff, _N_EMBD, *n_experts, gain=gain)


def _projection(rng: np.random.Generator, name: str, gain: float) -> Tensor:
    """Return the matrix that mixes the last token's embedding and the model's hidden row before it."""
    values = np.zeros((_N_EMBD, 2 * _N_EMBD), np.float32)
    values[:, :_N_EMBD] = np.eye(_N_EMBD)
    values[:, _N_EMBD:] = gain * rng.standard_normal((_N_EMBD, _N_EMBD), np.float32) / _N_EMBD**0.5
    return Tensor(name, (2 * _N_EMBD, _N_EMBD), TensorType.F32, lambda: [values.reshape(-1).view(np.uint8)])
