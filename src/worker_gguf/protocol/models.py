"""The public facts of a model, from which each dialect lists it."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, field

from worker_gguf.errors import NotFound
from worker_gguf.protocol.defaults import Defaults

__all__ = ["ModelCard", "ModelNotServed", "ModelStatus", "SlotUse", "names_meant"]


class ModelCard(Struct, frozen=True):
    """The public facts of a model. None means unknown. `n_ctx` is the context size of one request, in tokens.

    `capabilities` has "completion", "embedding", "rerank" or "vision": llama-server's names if it has one.
    `chat_template` is the source of the template of conversations without tools. `bos_text` and `eos_text` are the
    texts of the first and the last token, as a template writes them; empty if the model has none. `n_parallel` is the
    number of requests that run at the same time, and `defaults` has the defaults of requests.
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
    chat_template: str | None = None
    bos_text: str | None = None
    eos_text: str | None = None
    n_parallel: int | None = None
    defaults: Defaults = field(default_factory=Defaults)

    @property
    def generates(self) -> bool:
        return "completion" in self.capabilities


class ModelStatus(Struct, frozen=True):
    """The state of one of several models: `failed`, or as in llama-server's router `unloaded`, `loading`, `loaded`."""

    value: str
    reason: str | None = None


class ModelNotServed(NotFound):
    """The model that a request names is not served. Dialects have their own words for that."""

    def __init__(self, model: str, served: Iterable[str]) -> None:
        self.model = model[:200]
        self.served = ", ".join(map(repr, served))
        super().__init__(
            f"The model {self.model!r} is not served here. This worker serves {self.served}.", param="model"
        )


def names_meant(name: str) -> tuple[str, ...]:
    """Return the names of a model that a client may mean, in lower case: the given one, and it without Ollama's tag.

    Clients of Ollama's API put the tag `:latest` after a name without one.
    """
    lower = name.lower()
    return tuple(dict.fromkeys((lower, lower.removesuffix(":latest"))))


class SlotUse(Struct, frozen=True):
    """How many requests the engine of a model can run at the same time, and how many run. Zero if it is not loaded."""

    n_slots: int = 0
    n_busy: int = 0
