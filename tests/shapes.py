"""Headers of models as they are published, without their weights: sparse files that llama.cpp can measure.

The sizes are those of the originals; the vocabulary has no texts (`no_vocab`), so that a file takes some kilobytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

__all__ = ["SHAPES", "Shape", "write"]

F32, F16, Q8_0, Q4_K, Q6_K, MXFP4 = 0, 1, 8, 12, 14, 39
_BLOCKS = {F32: (1, 4), F16: (1, 2), Q8_0: (32, 34), Q4_K: (256, 144), Q6_K: (256, 210), MXFP4: (32, 17)}
Value = str | int | float | list[int]


@dataclass(frozen=True)
class Shape:
    architecture: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    n_ctx: int = 131_072
    type: int = Q4_K
    n_experts: int = 0
    n_experts_used: int = 0
    n_ff_exp: int = 0
    window: int = 0
    tied: bool = False
    qk_norm: bool = False
    post_norm: bool = False
    bias: bool = False
    more: Mapping[str, Value] = field(default_factory=dict)


SHAPES = {
    "Llama-3.1-8B": Shape("llama", 32, 4096, 14336, 32, 8, 128, 128_256),
    "Llama-3.2-1B": Shape("llama", 16, 2048, 8192, 32, 8, 64, 128_256, tied=True),
    "Mixtral-8x7B": Shape("llama", 32, 4096, 14336, 32, 8, 128, 32_000, 32_768, n_experts=8, n_experts_used=2),
    "Qwen2.5-7B": Shape("qwen2", 28, 3584, 18944, 28, 4, 128, 152_064, 32_768, Q8_0, bias=True),
    "Qwen3-4B": Shape("qwen3", 36, 2560, 9728, 32, 8, 128, 151_936, 40_960, tied=True, qk_norm=True),
    "Qwen3-32B": Shape("qwen3", 64, 5120, 25600, 64, 8, 128, 151_936, 40_960, qk_norm=True),
    "Qwen3-30B-A3B": Shape(
        "qwen3moe", 48, 2048, 6144, 32, 4, 128, 151_936, 40_960, Q4_K, 128, 8, 768, qk_norm=True
    ),
    "Gemma-2-9B": Shape(
        "gemma2", 42, 3584, 14336, 16, 8, 256, 256_000, 8192, window=4096, tied=True, post_norm=True,
        more={"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "Gemma-3-12B": Shape(
        "gemma3", 48, 3840, 15360, 16, 8, 256, 262_208, window=1024, tied=True, qk_norm=True, post_norm=True
    ),
    "DeepSeek-V2-Lite": Shape(
        "deepseek2", 27, 2048, 10944, 16, 1, 576, 102_400, 163_840, Q8_0, 64, 6, 1408,
        more={
            "attention.value_length": 512, "attention.key_length_mla": 192, "attention.value_length_mla": 128,
            "attention.kv_lora_rank": 512, "leading_dense_block_count": 1, "expert_shared_count": 2,
            "rope.dimension_count": 64, "expert_weights_scale": 1.0,
        },
    ),
    "GLM-4.5-Air": Shape(
        "glm4moe", 47, 4096, 10944, 96, 8, 128, 151_552, 131_072, Q8_0, 128, 8, 1408, bias=True,
        more={
            "rope.dimension_count": 64, "leading_dense_block_count": 1, "expert_shared_count": 1,
            "nextn_predict_layers": 1,
        },
    ),
    "LFM2-1.2B": Shape(
        "lfm2", 16, 2048, 8192, 32, 8, 64, 65_536, 128_000, Q8_0, tied=True, qk_norm=True,
        more={
            "shortconv.l_cache": 3,
            "attention.head_count_kv": [8 if layer in (2, 5, 8, 10, 12, 14) else 0 for layer in range(16)],
        },
    ),
    "gpt-oss-20b": Shape(
        "gpt-oss", 24, 2880, 2880, 64, 8, 64, 201_088, type=MXFP4, n_experts=32, n_experts_used=4, n_ff_exp=2880,
        window=128, bias=True,
    ),
}  # fmt: skip


def write(shape: Shape, path: Path) -> Path:
    """Write the header, and a hole where the weights would be."""
    keys, tensors = dict(_metadata(shape)), list(_tensors(shape))
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(keys))]
    parts += [_text(key) + _value(value) for key, value in keys.items()]
    offset = 0
    for name, dims, kind in tensors:
        parts += [_text(name), struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)]
        elements, size = _BLOCKS[kind]
        offset += -(-(prod(dims) // elements * size) // 32) * 32
    header = b"".join(parts)
    header += bytes(-len(header) % 32)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + offset)
    return path


def _metadata(shape: Shape) -> Iterator[tuple[str, Value]]:
    yield "general.architecture", shape.architecture
    yield "tokenizer.ggml.model", "no_vocab"
    values: dict[str, Value] = {
        "block_count": shape.n_layers,
        "context_length": shape.n_ctx,
        "embedding_length": shape.n_embd,
        "feed_forward_length": shape.n_ff,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": shape.n_head_kv,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.dimension_count": shape.head_dim,
        "rope.freq_base": 500_000.0,
        "vocab_size": shape.n_vocab,
        **shape.more,
    }
    if shape.n_experts:
        values |= {"expert_count": shape.n_experts, "expert_used_count": shape.n_experts_used}
    if shape.n_ff_exp:
        values["expert_feed_forward_length"] = shape.n_ff_exp
    if shape.window:
        values["attention.sliding_window"] = shape.window
    for key, value in values.items():
        yield f"{shape.architecture}.{key}", value


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], int]]:
    wide = Q8_0 if shape.type in (Q8_0, MXFP4) else Q6_K
    yield "token_embd.weight", (shape.n_embd, shape.n_vocab), wide if shape.tied or shape.type == MXFP4 else shape.type
    norm = "token_embd_norm" if shape.architecture == "lfm2" else "output_norm"
    yield f"{norm}.weight", (shape.n_embd,), F32
    if not shape.tied:
        yield "output.weight", (shape.n_embd, shape.n_vocab), wide
    for layer in range(shape.n_layers):
        for name, dims, kind in _layer(shape, layer):
            yield f"blk.{layer}.{name}", dims, kind


def _layer(shape: Shape, layer: int) -> Iterator[tuple[str, tuple[int, ...], int]]:
    heads = shape.more.get("attention.head_count_kv")
    if shape.architecture == "deepseek2":
        yield from _latent_attention(shape)
    elif isinstance(heads, list) and not heads[layer]:
        yield from _convolution(shape)
    else:
        yield from _attention(shape)
    if layer >= shape.n_layers - int(str(shape.more.get("nextn_predict_layers", 0))):
        yield "nextn.eh_proj.weight", (2 * shape.n_embd, shape.n_embd), shape.type
        for norm in ("enorm", "hnorm", "shared_head_norm"):
            yield f"nextn.{norm}.weight", (shape.n_embd,), F32
    if layer < int(str(shape.more.get("leading_dense_block_count", 0))):
        yield from _feed_forward(replace(shape, n_experts=0, n_ff_exp=0))
    else:
        yield from _feed_forward(shape)


def _latent_attention(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """The attention of the lite DeepSeek: one compressed row of 512 and 64 rotated elements per token."""
    yield "attn_norm.weight", (shape.n_embd,), F32
    yield "attn_q.weight", (shape.n_embd, shape.n_head * 192), shape.type
    yield "attn_kv_a_mqa.weight", (shape.n_embd, 576), shape.type
    yield "attn_kv_a_norm.weight", (512,), F32
    yield "attn_k_b.weight", (128, 512, shape.n_head), shape.type
    yield "attn_v_b.weight", (512, 128, shape.n_head), shape.type
    yield "attn_output.weight", (shape.n_head * 128, shape.n_embd), shape.type
    yield "ffn_norm.weight", (shape.n_embd,), F32


def _convolution(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """A layer that keeps the last inputs of a short convolution in place of keys and values."""
    yield "attn_norm.weight", (shape.n_embd,), F32
    yield "shortconv.conv.weight", (3, shape.n_embd), F32
    yield "shortconv.in_proj.weight", (shape.n_embd, 3 * shape.n_embd), shape.type
    yield "shortconv.out_proj.weight", (shape.n_embd, shape.n_embd), shape.type
    yield "ffn_norm.weight", (shape.n_embd,), F32


def _attention(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], int]]:
    n_q, n_kv = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    kind = Q8_0 if shape.type == MXFP4 else shape.type
    oss, glm = shape.architecture == "gpt-oss", shape.architecture == "glm4moe"
    yield "attn_norm.weight", (shape.n_embd,), F32
    for name, n in (("q", n_q), ("k", n_kv), ("v", n_kv)):
        yield f"attn_{name}.weight", (shape.n_embd, n), kind
        if shape.bias:
            yield f"attn_{name}.bias", (n,), F32
    yield "attn_output.weight", (n_q, shape.n_embd), kind
    if oss:
        yield "attn_output.bias", (shape.n_embd,), F32
        yield "attn_sinks.weight", (shape.n_head,), F32
    if shape.qk_norm:
        yield "attn_q_norm.weight", (shape.head_dim,), F32
        yield "attn_k_norm.weight", (shape.head_dim,), F32
    if shape.post_norm or oss or glm:
        yield "post_attention_norm.weight", (shape.n_embd,), F32
    if not (oss or glm):
        yield "ffn_norm.weight", (shape.n_embd,), F32
    if shape.post_norm:
        yield "post_ffw_norm.weight", (shape.n_embd,), F32


def _feed_forward(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], int]]:
    n_ff = shape.n_ff_exp or shape.n_ff
    glm = shape.architecture == "glm4moe"
    experts, suffix = ((shape.n_experts,), "_exps") if shape.n_experts else ((), "")
    if experts:
        yield "ffn_gate_inp.weight", (shape.n_embd, shape.n_experts), F32
    for name, dims in (("gate", (shape.n_embd, n_ff)), ("up", (shape.n_embd, n_ff)), ("down", (n_ff, shape.n_embd))):
        yield f"ffn_{name}{suffix}.weight", (*dims, *experts), shape.type
        if experts and shape.bias and not glm:
            yield f"ffn_{name}{suffix}.bias", (dims[1], *experts), F32
        if shape.architecture == "deepseek2" and experts:
            shared = tuple(2 * n if n == n_ff else n for n in dims)
            yield f"ffn_{name}_shexp.weight", shared, shape.type
        if glm and experts:
            yield f"ffn_{name}_shexp.weight", dims, shape.type
    if glm and experts:
        yield "exp_probs_b.bias", (shape.n_experts,), F32
    elif experts and shape.bias:
        yield "ffn_gate_inp.bias", (shape.n_experts,), F32


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Value) -> bytes:
    match value:
        case str():
            return struct.pack("<I", 8) + _text(value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case list():
            return struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)
