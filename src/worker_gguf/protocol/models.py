"""The public facts of a model, from which each dialect lists it."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, field
from msgspec.structs import replace

from worker_gguf.errors import NotFound
from worker_gguf.protocol.defaults import Defaults

__all__ = ["AdapterCard", "ModelCard", "ModelNotServed", "ModelStatus", "SlotUse", "card_meant", "names_meant"]


class AdapterCard(Struct, frozen=True):
    """The public facts of a LoRA adapter. `scale` is that of requests which name the adapter without a scale."""

    name: str
    scale: float = 1.0
    size_bytes: int | None = None


class ModelCard(Struct, frozen=True):
    """The public facts of a model. None means unknown. `n_ctx` is the context size of one request, in tokens.

    `capabilities` has "completion", "embedding", "rerank" or "vision": llama-server's names if it has one.
    `chat_template` is the source of the template of conversations without tools. `bos_text` and `eos_text` are the
    texts of the first and the last token, as a template writes them; empty if the model has none. `n_parallel` is the
    number of requests that run at the same time, and `defaults` has the defaults of requests. `adapters` are in the
    order of LORA. A model with one of its adapters has a card of its own, with this `adapter` and the id of its
    `parent`.
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
    adapters: tuple[AdapterCard, ...] = ()
    adapter: AdapterCard | None = None
    parent: str | None = None

    @property
    def generates(self) -> bool:
        return "completion" in self.capabilities

    def goes_by(self, *names: str) -> bool:
        """Return whether one of these names, which are in lower case, is the id or an alias."""
        return any(own.lower() in names for own in (self.id, *self.aliases))

    def with_adapters(self) -> tuple[ModelCard, ...]:
        """Return the card, and those of the model with each of its adapters."""
        return (self, *map(self._of, self.adapters))

    def _of(self, adapter: AdapterCard) -> ModelCard:
        return replace(
            self,
            id=f"{self.id}:{adapter.name}",
            aliases=(adapter.name, *(f"{alias}:{adapter.name}" for alias in self.aliases)),
            size_bytes=adapter.size_bytes,
            adapters=(),
            adapter=adapter,
            parent=self.id,
        )


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


def card_meant(card: ModelCard, name: str) -> ModelCard | None:
    """Return which of the cards of a model and its adapters goes by a name, if any. The model comes first."""
    meant = names_meant(name)
    if card.goes_by(*meant):
        return card
    return next((own for own in card.with_adapters() if own.goes_by(*meant)), None)


class SlotUse(Struct, frozen=True):
    """How many requests the engine of a model can run at the same time, and how many run. Zero if it is not loaded."""

    n_slots: int = 0
    n_busy: int = 0
