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
# Architectures with a single MTP layer whose graph and memory llama.cpp has, and whose own memory can be cut, with the
# tensors without which the graph would end the process. Each is tested (tests/llama/test_mtp.py).
_NEEDED: Final = {
    "glm4moe": "nextn.eh_proj nextn.enorm nextn.hnorm ffn_gate_inp ffn_down_exps ffn_down_shexp".split(),
    "deepseek2": "nextn.eh_proj nextn.enorm nextn.hnorm ffn_gate_inp ffn_down_exps ffn_down_shexp attn_q_a attn_q_b "
    "attn_kv_a_mqa attn_k_b attn_v_b".split(),
}
# Keys of models of these architectures whose MTP layer llama.cpp cannot compute: M-RoPE, and scaled attention.
_REFUSED: Final = ("rope.dimension_sections", "attention.temperature_scale")


def n_left_out(header: ModelHeader) -> int:
    """Return how many of the last layers llama.cpp does not load unless MTP layers are wanted."""
    return _n_mtp(header) if header.architecture in _LEFT_OUT else 0


def has_mtp_layer(header: ModelHeader) -> bool:
    """Return whether the file has an MTP layer that can guess tokens for its model.

    A header may name a layer that the file lacks.
    """
    needed = _NEEDED.get(header.architecture)
    if needed is None or _n_mtp(header) != 1 or any(header.get(key) is not None for key in _REFUSED):
        return False
    names = {tensor.name for tensor in header.tensors}
    return all(f"blk.{header.n_layers - 1}.{name}.weight" in names for name in needed)


def _n_mtp(header: ModelHeader) -> int:
    value = header.get("nextn_predict_layers")
    return value if isinstance(value, int) and 0 < value <= header.n_layers else 0
