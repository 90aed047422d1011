"""The shape of a model that determines its memory: the bytes of its layers, the KV entries of each token, the width
of its computation.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

__all__ = ["KV_BYTES", "LayerShape", "ModelShape"]

KV_BYTES: Final = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
    "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
"""Bytes of one KV element. Quantised types include their scales (ggml's block sizes)."""


class LayerShape(Struct, frozen=True):
    """One layer. It keeps `k_elements` and `v_elements` for each token, and `state_bytes` for each sequence.

    `window` is the number of tokens that it looks back on, if the file says so; 0 means all.
    """

    weights_bytes: int
    experts_bytes: int = 0
    k_elements: int = 0
    v_elements: int = 0
    state_bytes: int = 0
    window: int = 0

    @property
    def size_bytes(self) -> int:
        return self.weights_bytes + self.experts_bytes

    def kv_bytes_per_token(self, type_k: str, type_v: str) -> float:
        return self.k_elements * KV_BYTES[type_k] + self.v_elements * KV_BYTES[type_v]


class ModelShape(Struct, frozen=True):
    """The numbers of one model.

    `input_bytes` is the size of the token embeddings, which always stay in main memory. With `tied`, the output uses
    the embeddings, too; on a GPU it then needs a second copy. Widths count the elements of one token in the widest
    layer. `n_ff` includes all experts that a token uses; `n_experts_used` is 0 for a dense model. `vocabulary_bytes` is
    the memory of llama.cpp's vocabulary. With `has_mtp`, the last layer is an MTP layer, which guesses tokens.
    `n_positions` is the length of a table of positions, which no input may exceed; 0 if there is none.
    With `adapts_output`, a LoRA adapter changes the output.
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
    has_mtp: bool = False
    n_positions: int = 0
    adapts_output: bool = False

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    def without_mtp(self) -> ModelShape:
        """Return the shape if its MTP layer is not loaded."""
        return replace(self, layers=(*self.layers[:-1], LayerShape(0)), has_mtp=False) if self.has_mtp else self

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
        """Elements of one token that exist at once at the widest point of a layer, with flash attention.

        The residual, its norm and the attention's output always exist. The largest of three parts is added: the three
        rows of the feed-forward part (gate, up, their product), two rows of output for every expert, or the rows of the
        attention. Within 7 % of llama.cpp's dry run over twelve models (tests/llama/test_plan_true.py).
        """
        always = 3 * self.n_embd + self.n_q
        return always + max(3 * self.n_ff, 2 * self.n_experts_used * self.n_embd, self.n_q + 2 * self.n_kv)

    @property
    def attended_elements(self) -> int:
        """Elements of one token that exist at once in the attention, without its scores."""
        return 3 * self.n_embd + 2 * self.n_q + 2 * self.n_kv
