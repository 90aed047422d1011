"""Compiles the chat templates of a model and begins to examine them, beside the load of its weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from worker_gguf.gguf import ModelHeader
from worker_gguf.gguf.pooling import served_abilities
from worker_gguf.llama.vocabulary import Vocabulary
from worker_gguf.service.conversations import Conversations
from worker_gguf.service.markups import Markups
from worker_gguf.settings import Settings
from worker_gguf.start.template_text import read_template
from worker_gguf.template.chat_template import ChatTemplates

if TYPE_CHECKING:
    from worker_gguf.store import OriginalTokenizer

__all__ = ["conversations_of"]

logger = logging.getLogger(__name__)


def conversations_of(
    settings: Settings, header: ModelHeader, vocabulary: Vocabulary, original: OriginalTokenizer | None
) -> Conversations:
    """Return what renders the conversations of a model, and begin to examine its templates in another thread.

    Nobody waits for that but the first chats. Raises TemplateError if a template of the model or the settings cannot
    be used. The templates of `original` replace those of the file.
    """
    conversations = Conversations(_templates(settings, header, vocabulary, original), Markups(vocabulary))
    if served_abilities(header, settings.pooling).generates:  # otherwise they are never rendered
        conversations.examine_templates()
    return conversations


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
        source = read_template(settings.chat_template)
    templates = ChatTemplates.compile(
        source,
        bos_token=vocabulary.token_text(vocabulary.bos),
        eos_token=vocabulary.token_text(vocabulary.eos),
    )
    if templates.is_fallback and served_abilities(header, settings.pooling).generates:
        logger.warning("the model has no chat template, so ChatML is used: set CHAT_TEMPLATE to another")
    return templates
