"""Builds the service of a loaded model, with its card and its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import to_builtins
from msgspec.structs import replace

from worker_gguf import __version__
from worker_gguf.generation.engine import Engine
from worker_gguf.gguf import ModelHeader
from worker_gguf.link.messages import ModelLoaded
from worker_gguf.llama.bindings import version
from worker_gguf.llama.vocabulary import Vocabulary
from worker_gguf.plan import MemoryPlan
from worker_gguf.service.conversations import Conversations
from worker_gguf.service.images import ImageLimits, ImageLoader
from worker_gguf.service.service import Service
from worker_gguf.settings import Settings
from worker_gguf.start.model_card import card_of, request_defaults, with_vision
from worker_gguf.store import LocalModel

if TYPE_CHECKING:
    from worker_gguf.service.pooling_prompts import PairForm

__all__ = ["make_service"]

# These fields of the plan depend on the free memory at the start but cannot change an answer.
_NOT_IN_FINGERPRINT = frozenset({"reasons", "devices", "weighed", "degraded"})


def make_service(
    settings: Settings,
    engine: Engine,
    vocabulary: Vocabulary,
    loaded: ModelLoaded,
    header: ModelHeader,
    local: LocalModel,
    plan: MemoryPlan,
    conversations: Conversations,
    adapters: Sequence[LocalModel] = (),
) -> Service:
    """Build the service. `adapters` are the files of LORA."""
    bos_text = vocabulary.token_text(vocabulary.bos)
    card = card_of(settings, local, header, plan.n_ctx, adapters)
    if plan.projector is not None:
        card = with_vision(card)
    return Service(
        engine,
        vocabulary,
        conversations,
        replace(
            card,
            n_ctx_train=loaded.n_ctx_train,
            n_vocab=vocabulary.n_tokens,
            n_params=loaded.n_params,
            chat_template=conversations.template_source,
            bos_text=bos_text,
            n_parallel=plan.n_parallel,
            eos_text=vocabulary.token_text(vocabulary.eos),
        ),
        defaults=request_defaults(settings),
        fingerprint=_fingerprint(settings, header, local, plan, adapters),
        bos_text=bos_text,
        timeout_s=settings.request_timeout_s,
        pair_form=_pair_form(header, card.capabilities),
        images=_image_loader(settings),
    )


def _pair_form(header: ModelHeader, capabilities: Sequence[str]) -> PairForm | None:
    if "rerank" not in capabilities:
        return None
    from worker_gguf.start.pair_form import pair_form

    return pair_form(header)


def _image_loader(settings: Settings) -> ImageLoader:
    max_bytes = settings.max_image_mb << 20
    limits = ImageLimits(settings.max_images, max_bytes, settings.max_image_mpixels * 1_000_000)
    if not settings.image_domains:
        return ImageLoader(limits)
    from worker_gguf.store.remote_image import RemoteImages

    return ImageLoader(limits, RemoteImages(settings.image_domains, max_bytes).fetch)


def _fingerprint(
    settings: Settings, header: ModelHeader, local: LocalModel, plan: MemoryPlan, adapters: Sequence[LocalModel]
) -> str:
    """Return a digest of all facts that can change an answer with a fixed seed.

    These are the library, the files, the placement of the layers and the shape of batches.
    """
    shape = {name: value for name, value in to_builtins(plan).items() if name not in _NOT_IN_FINGERPRINT}
    how = (settings.type_k, settings.type_v, settings.flash_attn, settings.rope_freq_base, settings.rope_freq_scale)
    facts: tuple[object, ...] = (__version__, version(), header.name, local.size_bytes, header.quantisation, shape, how)
    if adapters:
        facts = (*facts, tuple((adapter.path.name, adapter.size_bytes) for adapter in adapters))
    return "fp_" + hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
