"""A model's abilities as one value, read from its header: generate text, pool a text into a vector, see pictures."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from worker_gguf.gguf.header import ModelHeader

__all__ = ["CLASS_HEADS", "Abilities", "Pooling", "abilities_of", "is_encoder"]

Pooling = Literal["mean", "cls", "last", "rank"]

# llama.h: enum llama_pooling_type. 0 is no pooling.
_POOLINGS: Final[dict[int, Pooling]] = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
# llama.cpp: architectures whose graph has no causal attention, whatever their keys say.
_ENCODERS: Final = frozenset(
    "bert modern-bert neo-bert eurobert nomic-bert nomic-bert-moe jina-bert-v2 jina-bert-v3 gemma-embedding "
    "llama-embed t5encoder".split()
)
_PROJECTORS: Final = frozenset({"clip", "mmproj"})
CLASS_HEADS: Final = ("cls.output.weight", "cls.weight")
"""The tensors of a head that ranks. The first one that a file has gives the scores."""


class Abilities(Struct, frozen=True):
    """`pools` is the way in which a text becomes one vector, or one score for "rank"; None where the header names none.
    `sees` is true for a projector, the file that turns pictures into tokens for a model.
    """

    generates: bool
    pools: Pooling | None = None
    sees: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The abilities in the words that /v1/models and /health use."""
        pooling = () if self.pools is None else ("rerank",) if self.pools == "rank" else ("embedding",)
        return (*(("completion",) if self.generates else ()), *pooling, *(("vision",) if self.sees else ()))


def abilities_of(header: ModelHeader) -> Abilities:
    """Read a model's abilities.

    An encoder that names no pooling ranks if it has a class head, because converters leave out every other one. Without
    a head it pools by the mean.
    """
    if header.architecture in _PROJECTORS:
        return Abilities(generates=False, sees=True)
    pooling = header.get("pooling_type")
    pools = _POOLINGS.get(pooling) if isinstance(pooling, int) else None
    if is_encoder(header):
        has_head = any(tensor.name in CLASS_HEADS for tensor in header.tensors)
        unnamed: Pooling = "rank" if has_head else "mean"
        return Abilities(generates=False, pools=pools or unnamed)
    return Abilities(generates=pools != "rank", pools=pools)


def is_encoder(header: ModelHeader) -> bool:
    """Return whether the tokens of a text see those after them, so that none can be drawn."""
    return header.architecture in _ENCODERS or header.get("attention.causal") is False
