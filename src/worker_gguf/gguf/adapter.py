"""Whether a GGUF file is a LoRA adapter for a model, by the headers of both.

llama.cpp checks most of this, too, but it names no file, and asserts some of it only when it computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from worker_gguf.gguf.header import ModelHeader, TensorInfo
from worker_gguf.gguf.preconditions import NO_WEIGHT

__all__ = ["changed_matrix", "why_no_adapter_of"]

_A: Final = ".lora_a"
_B: Final = ".lora_b"
_EMBEDDINGS: Final = "token_embd.weight"
_OUTPUT: Final = "output.weight"
_INVOCATION: Final = "adapter.alora.invocation_tokens"


def changed_matrix(tensor: TensorInfo) -> str | None:
    """Return the name of the matrix that a tensor of an adapter changes, or None if it is no such tensor."""
    name, dot, kind = tensor.name.rpartition(".")
    return name if dot + kind in (_A, _B) else None


def why_no_adapter_of(model: ModelHeader, adapter: ModelHeader) -> str | None:
    """Return why a file is not a LoRA adapter for a model, as the end of a sentence about it; None if it is one."""
    kind, type_ = adapter.metadata.get("general.type"), adapter.metadata.get("adapter.type")
    if kind != "adapter":
        return f"is not an adapter: its general.type is {_shown(kind)}"
    if type_ != "lora":
        return f"is not a LoRA adapter: its adapter.type is {_shown(type_)}"
    if _INVOCATION in adapter.metadata:
        return "is an activated LoRA (aLoRA), which begins in the middle of a prompt and is not served yet"
    if adapter.architecture != model.architecture:
        return f"is for the architecture {_shown(adapter.architecture)}, and the model has {model.architecture!r}"
    alpha = adapter.metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        return f"has the adapter.lora.alpha {_shown(alpha)}, which is not a number"
    return _why_tensors_differ(model, adapter)


def _why_tensors_differ(model: ModelHeader, adapter: ModelHeader) -> str | None:
    matrices = {tensor.name: tensor for tensor in model.tensors}
    tensors = {tensor.name: tensor for tensor in adapter.tensors if not tensor.name.endswith("_norm.weight")}
    if not tensors:
        return "has no tensors"
    for name, tensor in tensors.items():
        changed = changed_matrix(tensor)
        if changed is None:
            return f"has the tensor {_shown(name)}, which is not part of a LoRA"
        if changed == _EMBEDDINGS and _OUTPUT not in matrices:
            return "changes the token embeddings, which are the output of this model, too: llama.cpp cannot compute it"
        if changed not in matrices:
            return f"changes {_shown(changed)}, which the model does not have: it is for another model"
        if len(matrices[changed].shape) < 2:
            return f"changes {_shown(changed)}, which is a vector, and llama.cpp applies a LoRA to matrices only"
        if tensor.type in NO_WEIGHT:
            return f"has the tensor {_shown(name)} of the type {tensor.type}, which cannot be computed with"
        if why := _why_no_pair(matrices[changed], tensors):
            return why
    return None


def _why_no_pair(matrix: TensorInfo, tensors: Mapping[str, TensorInfo]) -> str | None:
    a, b = tensors.get(matrix.name + _A), tensors.get(matrix.name + _B)
    if a is None or b is None:
        return f"has only one of the two tensors that change {_shown(matrix.name)}: it is damaged"
    (n_in, n_out, n_experts), (a_in, a_out, a_experts), (b_in, b_out, b_experts) = map(_three, (matrix, a, b))
    if matrix.name == _EMBEDDINGS:  # its rows are looked up, so both are the other way round
        n_in, n_out, a_in, a_out = n_out, n_in, a_out, a_in
    if (a_in, b_out) != (n_in, n_out) or {a_experts, b_experts} != {n_experts}:
        return f"changes {_shown(matrix.name)} in another shape than the model has: it is for another model"
    if a_out != b_in:
        return f"has two tensors of different ranks that change {_shown(matrix.name)}: it is damaged"
    return None


def _three(tensor: TensorInfo) -> tuple[int, int, int]:
    n_in, n_out, n_experts, *_ = (*tensor.shape, 1, 1, 1)
    return n_in, n_out, n_experts


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:80]
