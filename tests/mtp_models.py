"""A tiny model with an MTP layer: of GLM-4.5's shape, two layers and one that predicts the token after the next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench import gguf_file
from bench.gguf_file import Tensor, TensorType
from tests import tiny_models as tiny

__all__ = ["write_mtp"]

_N_LAYERS, _N_EXPERTS, _N_FF = 2, 4, 32
_N_EMBD = 32


def write_mtp(path: Path, *, agreement: float = 0.0, with_layer: bool = True) -> Path:
    """Write the model. With a larger `agreement`, from 0 to 1, its MTP layer guesses better.

    The layers of a model with an agreement of 1 add nothing to a token's embedding, and its MTP layer passes on that
    of the last token, so that all guesses are right. Without `with_layer`, the header names an MTP layer that the file
    lacks, as some files have it.
    """
    arch = "glm4moe"
    metadata = tiny._common(arch, _N_LAYERS + 1) | {
        f"{arch}.attention.head_count_kv": 1,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.attention.key_length": 16,
        f"{arch}.attention.value_length": 16,
        f"{arch}.rope.dimension_count": 16,
        f"{arch}.expert_count": _N_EXPERTS,
        f"{arch}.expert_used_count": 2,
        f"{arch}.expert_shared_count": 1,
        f"{arch}.expert_feed_forward_length": _N_FF,
        f"{arch}.leading_dense_block_count": 1,
        f"{arch}.expert_weights_norm": True,
        f"{arch}.expert_gating_func": 2,
        f"{arch}.nextn_predict_layers": 1,
    }
    tensors = _tensors(np.random.default_rng(21), 1.0 - agreement)
    if not with_layer:
        tensors = (tensor for tensor in tensors if not tensor.name.startswith(f"blk.{_N_LAYERS}."))
    gguf_file.write(path, metadata | tiny._byte_vocabulary(), list(tensors))
    return path


def _tensors(rng: np.random.Generator, gain: float) -> Iterator[Tensor]:
    yield from tiny._ends(rng)
    for layer in range(_N_LAYERS + 1):
        prefix = f"blk.{layer}."
        yield tiny._constant(f"{prefix}attn_norm.weight", _N_EMBD, 1.0)
        yield tiny._constant(f"{prefix}post_attention_norm.weight", _N_EMBD, 1.0)
        yield tiny._random(rng, f"{prefix}attn_q.weight", _N_EMBD, 32, gain=2.0)
        yield tiny._random(rng, f"{prefix}attn_k.weight", _N_EMBD, 16)
        yield tiny._random(rng, f"{prefix}attn_v.weight", _N_EMBD, 16)
        yield tiny._random(rng, f"{prefix}attn_output.weight", 32, _N_EMBD, gain=gain)
        if layer == 0:
            yield from _feed_forward(rng, prefix, "", 64, gain)
        else:
            yield tiny._random(rng, f"{prefix}ffn_gate_inp.weight", _N_EMBD, _N_EXPERTS)
            yield tiny._constant(f"{prefix}exp_probs_b.bias", _N_EXPERTS, 0.0)
            yield from _feed_forward(rng, prefix, "_exps", _N_FF, gain, _N_EXPERTS)
            yield from _feed_forward(rng, prefix, "_shexp", _N_FF, gain)
    prefix = f"blk.{_N_LAYERS}.nextn."
    yield _projection(rng, f"{prefix}eh_proj.weight", gain)
    for norm in ("enorm", "hnorm", "shared_head_norm"):
        yield tiny._constant(f"{prefix}{norm}.weight", _N_EMBD, 1.0)


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
