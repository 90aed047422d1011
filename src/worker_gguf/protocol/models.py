"""The public facts of a model, from which each dialect lists it."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["ModelCard", "ModelStatus"]


class ModelCard(Struct, frozen=True):
    """The public facts of a model. None means unknown. `n_ctx` is the context size of one request, in tokens.

    `capabilities` has "completion", "embedding", "rerank" or "vision": llama-server's names if it has one.
    """

    id: str
    created: int
    owned_by: str = "worker-gguf"
    aliases: tuple[str, ...] = ()
    n_ctx: int | None = None
    n_ctx_train: int | None = None
    n_vocab: int | None = None
    n_embd: int | None = None
    n_params: int | None = None
    size_bytes: int | None = None
    quantization: str | None = None
    architecture: str | None = None
    capabilities: tuple[str, ...] = ("completion",)

    @property
    def generates(self) -> bool:
        return "completion" in self.capabilities


class ModelStatus(Struct, frozen=True):
    """The state of one of several models: `failed`, or as in llama-server's router `unloaded`, `loading`, `loaded`."""

    value: str
    reason: str | None = None
