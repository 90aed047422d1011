"""Builds the public facts of a model, loaded or not: its name, aliases, numbers and adapters."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from msgspec.structs import replace

from worker_gguf.gguf import ArrayInfo, ModelHeader, read_texts, special_ids, text_at
from worker_gguf.gguf.pooling import served_abilities
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.models import AdapterCard, ModelCard
from worker_gguf.settings import Settings
from worker_gguf.start.template_text import template_text
from worker_gguf.store import LocalModel

__all__ = [
    "adapter_cards",
    "card_of",
    "is_private",
    "names_private",
    "request_defaults",
    "with_special_texts",
    "with_vision",
]

_PRIVATE = re.compile(r"(?<![\w./~-])(?:~?/|\.{1,2}/|https?:/)\S", re.IGNORECASE)


def card_of(
    settings: Settings,
    local: LocalModel,
    header: ModelHeader,
    n_ctx: int | None = None,
    adapters: Sequence[LocalModel] = (),
) -> ModelCard:
    """Build the card of a model, with the `adapters` of LORA.

    `n_ctx` is the context size of one request, which is known after planning.
    """
    reference = settings.model_reference
    name = local.repo or (reference if local.source == "embedded" else local.path.stem)
    model_id = settings.model_alias or name
    aliases = {reference, name, local.path.name, local.path.stem} - {model_id}
    return ModelCard(
        id=model_id,
        created=int(time.time()),
        aliases=tuple(sorted(alias for alias in aliases if not is_private(alias))),
        n_ctx=n_ctx,
        n_ctx_train=header.n_ctx_train or None,
        n_vocab=header.n_vocab or None,
        n_embd=header.n_embd,
        n_params=header.n_params,
        size_bytes=local.size_bytes,
        quantization=header.quantisation,
        architecture=header.architecture,
        capabilities=served_abilities(header, settings.pooling).names,
        chat_template=template_text(settings, header),
        defaults=request_defaults(settings),
        adapters=adapter_cards(settings, adapters),
    )


def adapter_cards(settings: Settings, found: Sequence[LocalModel] = ()) -> tuple[AdapterCard, ...]:
    """Return the cards of the adapters of LORA, with the sizes of their files if they are `found`."""
    sizes = [local.size_bytes for local in found] if found else [None] * len(settings.lora)
    entries = zip(settings.adapters, sizes, strict=True)
    return tuple(AdapterCard(entry.name, entry.scale, size_bytes) for entry, size_bytes in entries)


def request_defaults(settings: Settings) -> Defaults:
    """Return the default parameters of requests."""
    return Defaults(settings.sampling_defaults(), settings.max_tokens, settings.strict_parameters, settings.spm_infill)


def with_special_texts(card: ModelCard, local: LocalModel, header: ModelHeader) -> ModelCard:
    """Add the texts of the first and the last token to the card of a model that is not loaded. Opens its file."""
    texts = header.get("tokenizer.ggml.tokens")
    if not isinstance(texts, ArrayInfo) or texts.type != "str":
        return card
    raw, special = read_texts(local.path, texts), special_ids(header)
    bos, eos = (
        "" if token is None else text_at(raw, token).decode("utf-8", "replace") for token in (special.bos, special.eos)
    )
    return replace(card, bos_text=bos, eos_text=eos)


def with_vision(card: ModelCard) -> ModelCard:
    """Return the card of a model with a projector."""
    return replace(card, capabilities=(*card.capabilities, "vision"))


def is_private(name: str) -> bool:
    """Return whether clients must not see a name, because it is a path or a URL, which may be signed."""
    return name.startswith(("/", ".", "~")) or name.lower().startswith(("http:", "https:"))


def names_private(text: str) -> bool:
    """Return whether a text contains a path or a URL."""
    return _PRIVATE.search(text) is not None
