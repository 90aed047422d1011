"""The parameters with which a model and its context are opened. Plain values, so that they can be sent to the process
that opens them."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

__all__ = ["MTP_UNREAD", "ContextParams", "ModelParams", "PoolingParams", "PoolingType", "VocabularySize"]

PoolingType = Literal["mean", "cls", "last", "rank"]
"""How a text becomes one vector: the mean over its tokens, its first or its last token; "rank" makes scores of it."""
MTP_UNREAD: Final = 64
"""Tokens of a sequence whose hidden rows wait in main memory until the MTP layer reads them together."""


class VocabularySize(Struct, frozen=True):
    """The number of tokens of a model, and the key under which a file may state it."""

    key: str
    n_tokens: int


class ModelParams(Struct, frozen=True):
    """`n_gpu_layers` -1 means all layers. `tensor_split` is each device's share of the model. The experts of the first
    `n_cpu_moe` layers stay in main memory. `repack` copies weights into an order that is better for the processor; this
    can begin only after the whole file is read. With `has_mtp`, the MTP layer is loaded, too. With
    `vocabulary_size`, the model is loaded without its vocabulary.
    """

    n_gpu_layers: int = 0
    load_mode: str = "auto"
    split_mode: str = "layer"
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    n_cpu_moe: int = 0
    repack: bool = False
    has_mtp: bool = False
    vocabulary_size: VocabularySize | None = None


class PoolingParams(Struct, frozen=True):
    """Inputs of `n_packed` tokens are computed together. With `is_whole`, an input must be computed in one decode."""

    type: PoolingType
    n_packed: int
    is_whole: bool


class ContextParams(Struct, frozen=True):
    """`n_ctx` is the number of tokens of one sequence, `n_cells` that of all sequences together.

    `n_rows` is the maximum number of rows of logits in one decode, of all sequences together. Without `swa_full`,
    layers with a sliding window keep only the window. With `pooling`, the model pools and draws no token; `n_ctx` is
    then the number of tokens of the longest input, and `n_parallel` that of the inputs that a decode may have.
    """

    n_ctx: int
    n_parallel: int
    n_cells: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_batch: int
    unified: bool
    flash_attn: str = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    rope_freq_base: float = 0.0
    rope_freq_scale: float = 0.0
    n_rows: int = 0
    swa_full: bool = True
    pooling: PoolingParams | None = None
