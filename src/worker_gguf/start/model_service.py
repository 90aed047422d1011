"""Builds the service of a loaded model, with its chat template, its card and its fingerprint."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import to_builtins
from msgspec.structs import replace

from worker_gguf import __version__
from worker_gguf.errors import TemplateError
from worker_gguf.generation.engine import Engine
from worker_gguf.gguf import ModelHeader, abilities_of
from worker_gguf.link.messages import ModelLoaded
from worker_gguf.llama.bindings import version
from worker_gguf.llama.vocabulary import Vocabulary
from worker_gguf.plan import MemoryPlan
from worker_gguf.protocol.calls import Defaults
from worker_gguf.service.service import Service
from worker_gguf.settings import Settings
from worker_gguf.start.model_card import card_of
from worker_gguf.store import LocalModel
from worker_gguf.template.chat_template import ChatTemplates

if TYPE_CHECKING:
    from worker_gguf.store import OriginalTokenizer

__all__ = ["make_service", "request_defaults"]

logger = logging.getLogger(__name__)

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
    original: OriginalTokenizer | None,
) -> Service:
    """Build the service. Raises TemplateError if the chat template of the model or the settings cannot be used."""
    service = Service(
        engine,
        vocabulary,
        _templates(settings, header, vocabulary, original),
        replace(
            card_of(settings, local, header, plan.n_ctx),
            n_ctx_train=loaded.n_ctx_train,
            n_vocab=vocabulary.n_tokens,
            n_params=loaded.n_params,
        ),
        defaults=request_defaults(settings),
        fingerprint=_fingerprint(settings, header, local, plan),
        bos_text=vocabulary.token_text(vocabulary.bos),
        timeout_s=settings.request_timeout_s,
    )
    if abilities_of(header).generates:
        service.examine_templates()
    return service


def request_defaults(settings: Settings) -> Defaults:
    """Return the default parameters of requests."""
    return Defaults(settings.sampling_defaults(), settings.max_tokens, settings.strict_parameters)


def _templates(
    settings: Settings, header: ModelHeader, vocabulary: Vocabulary, original: OriginalTokenizer | None
) -> ChatTemplates:
    source: str | Mapping[str, str] | None = header.chat_template
    if header.chat_templates:
        default = {"default": header.chat_template} if header.chat_template else {}
        source = {**header.chat_templates, **default}
    if original and original.chat_templates:
        source = original.chat_templates
    if settings.chat_template:
        source = _read_template(settings.chat_template)
    templates = ChatTemplates.compile(
        source,
        bos_token=vocabulary.token_text(vocabulary.bos),
        eos_token=vocabulary.token_text(vocabulary.eos),
    )
    if not abilities_of(header).generates:
        return templates  # they are never rendered
    _ = templates.default.shape  # examine the template now, so that the first request does not wait for it
    if templates.is_fallback:
        logger.warning("the model has no chat template, so ChatML is used: set CHAT_TEMPLATE to another")
    return templates


def _read_template(text_or_path: str) -> str:
    """Return a template, or read it from a file. A text without `{` is a path, because no useful template lacks it."""
    if "{" in text_or_path:
        return text_or_path
    try:
        return Path(text_or_path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise TemplateError(
            f"CHAT_TEMPLATE={text_or_path!r} is neither a template nor a readable file ({reason}). Set it to a "
            "template, or to the path of one."
        ) from error


def _fingerprint(settings: Settings, header: ModelHeader, local: LocalModel, plan: MemoryPlan) -> str:
    """Return a digest of all facts that can change an answer with a fixed seed.

    These are the library, the file, the placement of its layers and the shape of batches.
    """
    shape = {name: value for name, value in to_builtins(plan).items() if name not in _NOT_IN_FINGERPRINT}
    how = (settings.type_k, settings.type_v, settings.flash_attn, settings.rope_freq_base, settings.rope_freq_scale)
    facts = (__version__, version(), header.name, local.size_bytes, header.quantisation, shape, how)
    return "fp_" + hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
