"""The MTP layers of a model: layers after all others, which predict the token after the next one.

llama.cpp leaves them out of its memory unless it is asked to load them, and computes them in a context of their own
(llama-cpp-python 0.3.36: `load_mtp`, `LLAMA_CONTEXT_TYPE_MTP`).
"""

from __future__ import annotations

from typing import Final

from worker_gguf.gguf.header import ModelHeader

__all__ = ["has_mtp_layer", "n_left_out"]

# Architectures whose loader in llama.cpp skips their last `nextn_predict_layers` layers (src/models/, TENSOR_SKIP).
_LEFT_OUT: Final = frozenset(
    "bailingmoe2 bailingmoe3 cohere2moe deepseek2 deepseek32 deepseek4 exaone-moe exaone4 glm-dsa glm4 glm4moe "
    "glm5-next hy_v3 mimo2 nemotron_h_moe qwen35 qwen35moe qwen3next step35".split()
)
# Architectures with a single MTP layer whose graph and memory llama.cpp has, and whose own memory can be cut.
_GUESSING: Final = frozenset({"glm4moe"})
_NEEDED: Final = ("nextn.eh_proj", "nextn.enorm", "nextn.hnorm", "attn_norm")


def n_left_out(header: ModelHeader) -> int:
    """Return how many of the last layers llama.cpp does not load unless MTP layers are wanted."""
    return _n_mtp(header) if header.architecture in _LEFT_OUT else 0


def has_mtp_layer(header: ModelHeader) -> bool:
    """Return whether the file has an MTP layer that can guess tokens for its model.

    A header may name a layer that the file lacks. Models with M-RoPE have one that llama.cpp cannot compute.
    """
    if header.architecture not in _GUESSING or _n_mtp(header) != 1 or header.get("rope.dimension_sections") is not None:
        return False
    names = {tensor.name for tensor in header.tensors}
    return all(f"blk.{header.n_layers - 1}.{needed}.weight" in names for needed in _NEEDED)


def _n_mtp(header: ModelHeader) -> int:
    value = header.get("nextn_predict_layers")
    return value if isinstance(value, int) and 0 < value <= header.n_layers else 0
