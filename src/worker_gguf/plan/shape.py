"""The facts of a model that decide its memory: the bytes of its layers, what they keep of a token, the width it
computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["KV_BYTES", "LayerShape", "ModelShape"]

KV_BYTES: Final = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
    "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
"""Bytes of one KV element; quantised types count their scales (ggml's block sizes)."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer. `k_elements` and `v_elements` are kept of each token, `state_bytes` of each sequence."""

    weights_bytes: int
    experts_bytes: int = 0
    k_elements: int = 0
    v_elements: int = 0
    state_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        return self.weights_bytes + self.experts_bytes

    def kv_bytes_per_token(self, type_k: str, type_v: str) -> float:
        return self.k_elements * KV_BYTES[type_k] + self.v_elements * KV_BYTES[type_v]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """`input_bytes` are the token embeddings, always in main memory; a `tied` output is a second use of them, and a
    second copy where it lies on a GPU. Widths are elements of one token at the widest layer; `n_ff` counts all experts
    that a token uses, `n_experts_used` is 0 for a dense model. `vocabulary_bytes` is what llama.cpp makes of the texts.
    """

    layers: tuple[LayerShape, ...]
    input_bytes: int
    output_bytes: int
    tied: bool
    n_ctx_train: int
    n_vocab: int = 0
    n_embd: int = 0
    n_ff: int = 0
    n_head: int = 0
    n_q: int = 0
    n_kv: int = 0
    n_experts_used: int = 0
    has_window: bool = False
    largest_tensor_bytes: int = 0
    vocabulary_bytes: int = 0

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def experts_bytes(self) -> int:
        return sum(layer.experts_bytes for layer in self.layers)

    @property
    def weights_bytes(self) -> int:
        own_output = 0 if self.tied else self.output_bytes
        return sum(layer.size_bytes for layer in self.layers) + self.input_bytes + own_output

    def kv_bytes_per_token(self, type_k: str, type_v: str) -> float:
        return sum(layer.kv_bytes_per_token(type_k, type_v) for layer in self.layers)

    @property
    def computed_elements(self) -> int:
        """Elements of one token that are alive at once at the widest point of a layer, with flash attention.

        Three rows of the feed-forward part (gate, up, their product) or two of every expert's output, plus the
        residual, its norm and the attention's output; or the attention's own rows. Found with llama.cpp's dry run over
        twelve models (tests/llama/test_plan_true.py), within 7 %.
        """
        beside = 3 * self.n_embd + self.n_q
        return beside + max(3 * self.n_ff, 2 * self.n_experts_used * self.n_embd, self.n_q + 2 * self.n_kv)

    @property
    def attended_elements(self) -> int:
        """Elements of one token that are alive at once in the attention, without its scores."""
        return 3 * self.n_embd + 2 * self.n_q + 2 * self.n_kv
