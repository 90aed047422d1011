"""Facts that llama.cpp takes for granted of a model, checked before it is loaded.

Its loader answers most damage with an error, but asserts these facts: a file without them would end the process, and
with it all other requests and models. Further assertions, which differ between architectures, are caught by
`llama.last_words`, at the price of the process.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final, NoReturn

from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf.header import ArrayInfo, ModelHeader, TensorInfo

__all__ = ["NO_WEIGHT", "check_parts", "check_sound"]

# llama.cpp: LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS in llama-hparams.h, LLAMA_ROPE_SCALING_TYPES in llama-model.cpp
MAX_LAYERS: Final = 512
MAX_EXPERTS: Final = 1024
ROPE_SCALINGS: Final = ("none", "linear", "yarn", "longrope")
ALIGNMENT: Final = 32
"""ggml maps the weights as they lie in the file, and its kernels read them at this alignment."""

_PROJECTORS: Final = ("clip", "mmproj")
NO_WEIGHT: Final = frozenset({"I8", "I16", "I32", "I64", "F64"})
"""Nothing is computed with these types; F64 and whole numbers in a weight lead a kernel out of its table."""
_FLOATS: Final = frozenset({"F32", "F16", "BF16"})
_WEIGHT: Final = re.compile(
    r"(?:blk\.\d+\.(?:attn|ffn|ssm|post|layer)_(?!gate_tid)\w+|token_embd(?:_norm)?|output(?:_norm)?)\.(?:weight|bias)"
)
_ADDED: Final = re.compile(r".*(?:norm\.weight|\.bias)")


def check_sound(header: ModelHeader, name: str) -> None:
    """Raise ModelInvalid for what would make llama.cpp abort."""
    facts = _Facts(header, name)
    if header.architecture in _PROJECTORS:
        raise ModelInvalid(
            f"{name} is a projector (mmproj), which only makes pictures readable for a model. Set MODEL to the model."
        )
    if header.metadata.get("general.type") == "adapter":
        raise ModelInvalid(
            f"{name} is an adapter, which only changes a model. Set MODEL to the model, and LORA to the adapter."
        )
    _check_layers(facts)
    _check_experts(facts)
    _check_numbers(facts)
    if header.data_offset % ALIGNMENT and header.tensors:
        facts.refuse(f"its weights begin at byte {header.data_offset}, which is not a multiple of {ALIGNMENT}")
    for tensor in header.tensors:
        _check_type(facts, tensor)


def check_parts(headers: Sequence[ModelHeader], names: Sequence[str]) -> None:
    """Raise ModelInvalid unless the files are the parts of one model, all of them and in order."""
    first = headers[0]
    if first.n_parts > 1 and first.n_parts != len(headers):
        raise ModelInvalid(f"{names[0]} is part of a model of {first.n_parts} files, and {len(headers)} were found.")
    if len(headers) == 1:
        return
    for number, (header, name) in enumerate(zip(headers, names, strict=True)):
        if (header.get("split.no"), header.n_parts) != (number, len(headers)):
            raise ModelInvalid(
                f"{name} should be part {number + 1} of {len(headers)} of a model, and its own header disagrees. The "
                "parts are of different models or uploads: download all of them again."
            )
    n_tensors, said = sum(len(header.tensors) for header in headers), first.get("split.tensors.count")
    n_names = len({tensor.name for header in headers for tensor in header.tensors})
    if n_names != n_tensors or said not in (None, n_tensors):
        raise ModelInvalid(
            f"{names[0]} and its other parts have {n_names} different tensors, and {said or n_tensors} were expected. "
            "The parts are of different models or uploads: download all of them again."
        )


class _Facts:
    def __init__(self, header: ModelHeader, name: str) -> None:
        self.header = header
        self.name = name

    def refuse(self, why: str) -> NoReturn:
        raise ModelInvalid(
            f"{self.name} is not a GGUF model that can be loaded: {why}. The file is damaged or was converted wrongly: "
            "download it again, or take another one."
        )

    def most(self, key: str) -> int:
        """Return a number, or the largest of a number for each layer; 0 if it is not there."""
        value = self.header.get(key)
        if isinstance(value, ArrayInfo):
            if value.values is None:
                self.refuse(f"its {key} is not a short list of numbers")
            return max((int(item) for item in value.values[: self.header.n_layers]), default=0)
        return value if isinstance(value, int) else 0


def _check_layers(facts: _Facts) -> None:
    n_layers = facts.header.n_layers
    if not 0 < n_layers <= MAX_LAYERS:
        facts.refuse(f"it has {n_layers} layers, and llama.cpp knows 1 to {MAX_LAYERS}")
    if (extra := facts.most("nextn_predict_layers")) > n_layers:
        facts.refuse(f"{extra} of its {n_layers} layers are marked as predicting further tokens")


def _check_experts(facts: _Facts) -> None:
    n, used, groups = (facts.most(f"expert_{key}") for key in ("count", "used_count", "group_count"))
    if n > MAX_EXPERTS:
        facts.refuse(f"it has {n} experts, and llama.cpp knows at most {MAX_EXPERTS}")
    if used > n or (n > 1 and not used):
        facts.refuse(f"it has {n} experts and uses {used} of them")
    if not groups:
        return
    in_use = facts.most("expert_group_used_count")
    if groups >= n or (groups > 1 and (n % groups or not 0 < in_use < groups)):
        facts.refuse(f"its {n} experts are marked as in {groups} groups, of which {in_use} are used")


def _check_numbers(facts: _Facts) -> None:
    header = facts.header
    scaling = header.rope.scaling
    if scaling is not None and scaling not in ROPE_SCALINGS:
        facts.refuse(f"its rope.scaling.type is {scaling[:80]!r}, not one of {', '.join(ROPE_SCALINGS)}")
    for key in ("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.group_norm_epsilon"):
        value = header.get(key)
        if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
            facts.refuse(f"its {key} is {value}")


def _check_type(facts: _Facts, tensor: TensorInfo) -> None:
    is_weight = tensor.type in NO_WEIGHT and _WEIGHT.fullmatch(tensor.name)
    if is_weight or (tensor.type not in _FLOATS and len(tensor.shape) == 1 and _ADDED.fullmatch(tensor.name)):
        facts.refuse(f"its tensor {tensor.name[:80]} is of the type {tensor.type}, which cannot be computed with")
