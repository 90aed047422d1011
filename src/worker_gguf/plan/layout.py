"""One possible distribution of a model over a machine, and the numbers that follow from it."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from worker_gguf.gguf.pooling import Pools

__all__ = ["CELL_PAD", "LEAST_ROWS", "MOST_ROWS", "Layout"]

LEAST_ROWS: Final = 17
"""With guessed tokens, a single sequence can have so many rows of logits in a step."""
MOST_ROWS: Final = 64
"""Guessed tokens add no rows beyond these. A row takes 0.5 MB in a vocabulary of 128k tokens, twice."""
CELL_PAD: Final = 256
"""llama.cpp pads a context to a multiple of this."""


class Layout(Struct, frozen=True):
    """One possible distribution of a model over the machine, for `measure`.

    `n_gpu_layers` counts from the output backwards; -1 means all layers. The experts of the first `n_cpu_moe` layers
    stay in main memory. `tensor_split` is each GPU's share of the layers.
    """

    n_ctx: int
    n_parallel: int
    kv_unified: bool
    n_batch: int
    n_ubatch: int
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: bool = True
    n_gpu_layers: int = 0
    n_cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()
    n_cells: int | None = None
    """Size of a shared memory in tokens. None means the whole context for each sequence."""
    swa_full: bool = True
    """Whether layers with a sliding window keep all tokens."""
    speculates: bool = True
    """Whether a step may have rows of logits for guessed tokens."""
    pools: Pools | None = None
    """How the model pools. Then `n_ctx` is the length of the longest input, and a step packs `n_batch` tokens."""

    @property
    def n_rows(self) -> int:
        """Rows of logits in one step: one for each sequence, and those of guessed tokens.

        A model that pools has one for each token, even if it computes none.
        """
        if self.pools is not None:
            return self.n_tokens if self.pools.is_whole else self.n_batch
        if not self.speculates:
            return self.n_parallel
        return max(self.n_parallel, min(2 * self.n_parallel, MOST_ROWS), LEAST_ROWS)

    @property
    def total_cells(self) -> int:
        """Cells of all sequences together, before padding."""
        if self.pools is not None:
            # Of inputs that are computed in parts, the longest one may be in memory beside a batch of others.
            whole = max(self.n_ctx, self.n_batch)
            return whole if self.pools.is_whole else self.n_ctx + self.n_batch
        whole = self.n_ctx * self.n_parallel
        return whole if self.n_cells is None or not self.kv_unified else max(self.n_ctx, min(self.n_cells, whole))

    @property
    def cells(self) -> int:
        """Cells of one stream, padded. A stream belongs to one sequence, or to all of them if the memory is unified."""
        cells = self.total_cells if self.kv_unified else self.n_ctx
        return -(-cells // CELL_PAD) * CELL_PAD

    @property
    def n_streams(self) -> int:
        return 1 if self.kv_unified else self.n_parallel

    @property
    def n_tokens(self) -> int:
        """The largest number of tokens that are computed at once."""
        if self.pools is not None and self.pools.is_whole:
            return max(self.n_ctx, self.n_batch)
        return min(self.n_ubatch, self.n_batch, self.cells * self.n_streams)
