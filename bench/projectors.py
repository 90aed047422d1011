"""Writes projectors (mmproj files) with random weights. What they see is noise, and its cost is real."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench import gguf_file
from bench.gguf_file import Tensor, TensorType, Value

N_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Projector:
    """The shape of a projector.

    `kind` is llama.cpp's name of its type: "mlp" (LLaVA) gives a row for each patch of a square; "gemma3" pools a
    square into few rows, which the model sees all at once; "qwen2vl_merger" keeps the proportions of the image, and
    its rows have positions in two dimensions. `n_out` is the width of a row, which is that of the model's embeddings.
    `tiles` are the sizes, width and height by turns, to which a large image is scaled and then cut into squares.
    """

    kind: str
    n_out: int
    n_embd: int = 32
    n_heads: int = 2
    n_ff: int = 64
    n_layers: int = 2
    image_size: int = 56
    patch_size: int = 14
    scale: int = 2
    tiles: tuple[int, ...] = ()
    seed: int = 21


def write(path: Path, projector: Projector) -> Path:
    gguf_file.write(path, metadata(projector), list(tensors(projector)))
    return path


def metadata(projector: Projector) -> dict[str, Value]:
    tiles: dict[str, Value] = {"clip.vision.image_grid_pinpoints": np.array(projector.tiles, np.int32)}
    return {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "general.name": f"random {projector.kind}",
        "general.file_type": 0,
        "clip.has_vision_encoder": True,
        "clip.projector_type": projector.kind,
        "clip.use_gelu": True,
        "clip.vision.embedding_length": projector.n_embd,
        "clip.vision.feed_forward_length": projector.n_ff,
        # LLaVA's graph leaves out the last layer.
        "clip.vision.block_count": projector.n_layers + (projector.kind == "mlp"),
        "clip.vision.projection_dim": projector.n_out,
        "clip.vision.attention.head_count": projector.n_heads,
        "clip.vision.attention.layer_norm_epsilon": 1e-6,
        "clip.vision.image_size": projector.image_size,
        "clip.vision.patch_size": projector.patch_size,
        "clip.vision.image_mean": np.full(N_CHANNELS, 0.5, np.float32),
        "clip.vision.image_std": np.full(N_CHANNELS, 0.25, np.float32),
        "clip.vision.projector.scale_factor": projector.scale,
        "clip.vision.spatial_merge_size": 2,
        **(tiles if projector.tiles else {}),
    }


def tensors(projector: Projector) -> Iterator[Tensor]:
    rng = np.random.default_rng(projector.seed)
    n_embd, patch = projector.n_embd, projector.patch_size
    n_patches = (projector.image_size // patch) ** 2
    random = partial(matrix, rng)
    yield random("v.patch_embd.weight", patch, patch, N_CHANNELS, n_embd, gain=1 / patch)
    for layer in range(projector.n_layers + (projector.kind == "mlp")):
        yield from layer_tensors(projector, rng, f"v.blk.{layer}.")
    match projector.kind:
        case "mlp":
            yield constant("v.class_embd", 0.1, n_embd)
            yield random("v.position_embd.weight", n_embd, n_patches + 1)
            yield from norm("v.pre_ln", n_embd)
            yield from linear(rng, "mm.0", n_embd, n_embd)
            yield from linear(rng, "mm.2", n_embd, projector.n_out)
        case "gemma3":
            yield constant("v.patch_embd.bias", 0.0, n_embd)
            yield random("v.position_embd.weight", n_embd, n_patches)
            yield from norm("v.post_ln", n_embd)
            yield constant("mm.soft_emb_norm.weight", 1.0, n_embd)
            yield random("mm.input_projection.weight", projector.n_out, n_embd)
        case "qwen2vl_merger":
            yield random("v.patch_embd.weight.1", patch, patch, N_CHANNELS, n_embd, gain=1 / patch)
            yield from norm("v.post_ln", n_embd)
            yield from linear(rng, "mm.0", 4 * n_embd, 4 * n_embd)
            yield from linear(rng, "mm.2", 4 * n_embd, projector.n_out)
        case _:
            raise ValueError(f"{projector.kind} is not a kind of projector that can be written")


def layer_tensors(projector: Projector, rng: np.random.Generator, prefix: str) -> Iterator[Tensor]:
    n_embd = projector.n_embd
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        yield from linear(rng, prefix + name, n_embd, n_embd)
    for name in ("ln1", "ln2"):
        yield from norm(prefix + name, n_embd)
    yield from linear(rng, prefix + "ffn_up", n_embd, projector.n_ff)
    yield from linear(rng, prefix + "ffn_down", projector.n_ff, n_embd)


def linear(rng: np.random.Generator, name: str, n_in: int, n_out: int) -> Iterator[Tensor]:
    yield matrix(rng, f"{name}.weight", n_in, n_out)
    yield constant(f"{name}.bias", 0.1, n_out)


def norm(name: str, n: int) -> Iterator[Tensor]:
    yield constant(f"{name}.weight", 1.0, n)
    yield constant(f"{name}.bias", 0.0, n)


def matrix(rng: np.random.Generator, name: str, *shape: int, gain: float = 1.0) -> Tensor:
    values = rng.standard_normal(int(np.prod(shape)), np.float32) * np.float32(gain / shape[0] ** 0.5)
    return Tensor(name, shape, TensorType.F32, lambda: [values.view(np.uint8)])


def constant(name: str, value: float, n: int) -> Tensor:
    return Tensor(name, (n,), TensorType.F32, lambda: [np.full(n, value, np.float32).view(np.uint8)])
