"""Writes models with real shapes and random weights. Their text is noise, and their cost is real."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import gguf_file, words
from bench.gguf_file import BLOCKS, Tensor, TensorType, Value

CACHE = Path(__file__).parent / ".cache"
# Part of every file name: raise it when what is written changes.
VERSION = 1
CHUNK_BLOCKS = 1 << 16


@dataclass(frozen=True, slots=True)
class Shape:
    name: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_heads: int
    n_kv_heads: int
    n_ctx_train: int
    file_type: int  # llama_ftype
    weights: TensorType
    better_weights: TensorType  # as Q4_K_M: the output, and value and down projections of half of the layers
    n_experts: int = 0
    n_experts_used: int = 0

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_heads


SHAPES = {
    shape.name: shape
    for shape in (
        # For a quick run of a benchmark or a check itself: their figures mean nothing.
        Shape("tiny", 1, 256, 256, 4, 2, 1024, 15, TensorType.Q4_K, TensorType.Q6_K),
        Shape("tiny-moe", 1, 256, 256, 4, 2, 1024, 15, TensorType.Q4_K, TensorType.Q6_K, 4, 2),
        Shape("small", 6, 384, 1024, 6, 6, 8192, 7, TensorType.Q8_0, TensorType.Q8_0),
        Shape("1b", 16, 2048, 8192, 32, 8, 131_072, 15, TensorType.Q4_K, TensorType.Q6_K),
        Shape("moe-8x3b", 28, 3072, 8192, 24, 8, 131_072, 15, TensorType.Q4_K, TensorType.Q6_K, 8, 2),
    )
}


def path_of(shape: Shape, cache: Path = CACHE) -> Path:
    """Return where the model's file is, or will be."""
    return cache / f"{shape.name}-v{VERSION}.gguf"


def ensure(shape: Shape, cache: Path = CACHE) -> Path:
    """Return the model's file, writing it first where it is missing."""
    path = path_of(shape, cache)
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        gguf_file.write(path, metadata(shape), list(tensors(shape)))
    return path


def metadata(shape: Shape) -> dict[str, Value]:
    tokens, merges = words.text_tokens()
    special = words.special_tokens()
    experts: dict[str, Value] = {
        "llama.expert_count": shape.n_experts,
        "llama.expert_used_count": shape.n_experts_used,
    }
    return {
        "general.architecture": "llama",
        "general.name": f"bench {shape.name}",
        "general.file_type": shape.file_type,
        "general.quantization_version": 2,
        "llama.block_count": shape.n_layers,
        "llama.context_length": shape.n_ctx_train,
        "llama.embedding_length": shape.n_embd,
        "llama.feed_forward_length": shape.n_ff,
        "llama.attention.head_count": shape.n_heads,
        "llama.attention.head_count_kv": shape.n_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": shape.head_size,
        "llama.rope.freq_base": 500_000.0,
        "llama.vocab_size": words.N_VOCAB,
        **(experts if shape.n_experts else {}),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens + special,
        "tokenizer.ggml.token_type": np.array([1] * len(tokens) + [3] * len(special), dtype=np.int32),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": words.BOS_TOKEN,
        "tokenizer.ggml.eos_token_id": words.EOT_TOKEN,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": words.CHAT_TEMPLATE,
    }


def tensors(shape: Shape) -> Iterator[Tensor]:
    rng = np.random.default_rng(7)
    n_embd = shape.n_embd

    def ones(name: str) -> Tensor:
        return Tensor(name, (n_embd,), TensorType.F32, lambda: [np.ones(n_embd, np.float32).view(np.uint8)])

    def weights(name: str, *dims: int, kind: TensorType = shape.weights, gain: float = 1.0) -> Tensor:
        spread = gain / dims[0] ** 0.5
        return Tensor(name, dims, kind, partial(random_blocks, rng, dims, kind, spread))

    yield weights("token_embd.weight", n_embd, words.N_VOCAB)
    yield ones("output_norm.weight")
    # Logits with a spread of about 2: neither one sure token nor all alike.
    yield weights("output.weight", n_embd, words.N_VOCAB, kind=shape.better_weights, gain=2.0)
    for layer in range(shape.n_layers):
        yield from layer_tensors(shape, layer, ones, weights)


def layer_tensors(
    shape: Shape, layer: int, ones: Callable[[str], Tensor], weights: Callable[..., Tensor]
) -> Iterator[Tensor]:
    prefix, n_embd, n_ff = f"blk.{layer}.", shape.n_embd, shape.n_ff
    n_kv = shape.n_kv_heads * shape.head_size
    mixed = shape.better_weights if layer % 2 == 0 else shape.weights
    yield ones(prefix + "attn_norm.weight")
    yield weights(prefix + "attn_q.weight", n_embd, n_embd)
    yield weights(prefix + "attn_k.weight", n_embd, n_kv)
    yield weights(prefix + "attn_v.weight", n_embd, n_kv, kind=mixed)
    yield weights(prefix + "attn_output.weight", n_embd, n_embd)
    yield ones(prefix + "ffn_norm.weight")
    if shape.n_experts:
        yield weights(prefix + "ffn_gate_inp.weight", n_embd, shape.n_experts, kind=TensorType.F32)
    suffix, experts = ("_exps.weight", (shape.n_experts,)) if shape.n_experts else (".weight", ())
    yield weights(prefix + "ffn_gate" + suffix, n_embd, n_ff, *experts)
    yield weights(prefix + "ffn_up" + suffix, n_embd, n_ff, *experts)
    yield weights(prefix + "ffn_down" + suffix, n_ff, n_embd, *experts, kind=mixed)


def random_blocks(
    rng: np.random.Generator, dims: tuple[int, ...], kind: TensorType, spread: float
) -> Iterator[NDArray[np.uint8]]:
    """Yield blocks of random quants whose values have mean 0 and a standard deviation of about `spread`."""
    elements, size_bytes = BLOCKS[kind]
    n_blocks = prod(dims) // elements
    for start in range(0, n_blocks, CHUNK_BLOCKS):
        n = min(CHUNK_BLOCKS, n_blocks - start)
        if kind is TensorType.F32:
            yield (rng.standard_normal(n, np.float32) * np.float32(spread)).view(np.uint8)
            continue
        blocks = np.frombuffer(bytearray(rng.bytes(n * size_bytes)), np.uint8).reshape(n, size_bytes)
        set_scales(blocks, kind, spread)
        yield blocks


def set_scales(blocks: NDArray[np.uint8], kind: TensorType, spread: float) -> None:
    """Overwrite the blocks' scales: random bytes there could be infinite or not a number."""
    match kind:
        case TensorType.Q8_0:  # d, then 32 int8 of deviation 73.9
            blocks[:, :2] = half(spread / 73.9)
        case TensorType.Q4_K:  # d, dmin, then 6-bit scales and minima: d * scale * q - dmin * minimum
            blocks[:, :2] = half(spread / 258)
            blocks[:, 2:4] = half(7.5 * spread / 258)
        case TensorType.Q6_K:  # low bits, high bits, 16 int8 scales, d: d * scale * (q - 32)
            scales = blocks[:, 192:208]
            scales %= 32
            scales -= 16
            blocks[:, 208:] = half(spread / 170)
        case _:
            raise ValueError(f"{kind.name} has no scales")


def half(value: float) -> NDArray[np.uint8]:
    return np.array([value], np.float16).view(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.models", description=__doc__)
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], help="default: small and 1b")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args()
    for name in args.shapes or ("small", "1b"):
        path = ensure(SHAPES[name], args.cache)
        print(f"{path} {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
