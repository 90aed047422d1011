"""Writes LoRA adapters with random weights for a model. They change its answers, and their cost is real."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from bench import gguf_file
from bench.gguf_file import Tensor, TensorType, Value
from worker_gguf.gguf import ModelHeader, TensorInfo, read_header

# The matrices that common adapters change.
MATRICES = r"blk\.\d+\.(?:attn_(?:q|k|v|output)|ffn_(?:gate|up|down)(?:_exps)?|ssm_(?:in|out))\.weight"


def write(
    path: Path,
    base: Path,
    *,
    seed: int = 1,
    rank: int = 4,
    alpha: float | None = None,
    gain: float = 1.0,
    matrices: str = MATRICES,
    norms: bool = False,
    metadata: Mapping[str, Value] | None = None,
) -> Path:
    """Write an adapter for the model at `base`, of the matrices whose names match.

    With a `gain` of 1, it adds as much to the result of a matrix as the matrix itself gives. `alpha` is the rank unless
    it is given, so that a scale of 1 counts once. With `norms`, the file has vectors of norms, too, as some trainers
    add them. `metadata` replaces keys.
    """
    header = read_header(base)
    rng = np.random.default_rng(seed)
    found = [tensor for tensor in header.tensors if re.fullmatch(matrices, tensor.name)]
    tensors = [tensor for matrix in found for tensor in _pair(rng, matrix, rank, gain)]
    tensors += [_ones(tensor) for tensor in header.tensors if norms and tensor.name.endswith(".attn_norm.weight")]
    gguf_file.write(path, _metadata(header, float(rank) if alpha is None else alpha) | dict(metadata or {}), tensors)
    return path


def _metadata(header: ModelHeader, alpha: float) -> dict[str, Value]:
    return {
        "general.architecture": header.architecture,
        "general.type": "adapter",
        "general.name": f"random adapter of {header.name}",
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }


def _pair(rng: np.random.Generator, matrix: TensorInfo, rank: int, gain: float) -> Iterator[Tensor]:
    n_in, n_out, *n_experts = matrix.shape
    yield _random(rng, f"{matrix.name}.lora_a", n_in**-0.5, n_in, rank, *n_experts)
    yield _random(rng, f"{matrix.name}.lora_b", gain * rank**-0.5, rank, n_out, *n_experts)


def _ones(vector: TensorInfo) -> Tensor:
    return Tensor(vector.name, vector.shape, TensorType.F32, lambda: [np.ones(vector.shape, np.float32).view(np.uint8)])


def _random(rng: np.random.Generator, name: str, spread: float, *shape: int) -> Tensor:
    values = rng.standard_normal(int(np.prod(shape)), np.float32) * np.float32(spread)
    return Tensor(name, shape, TensorType.F32, lambda: [values.view(np.uint8)])
