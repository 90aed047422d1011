"""The text of the chat template that a model has, by the settings or by its header."""

from __future__ import annotations

from pathlib import Path

from worker_gguf.errors import TemplateError
from worker_gguf.gguf import ModelHeader
from worker_gguf.settings import Settings

__all__ = ["read_template", "template_text"]


def template_text(settings: Settings, header: ModelHeader) -> str | None:
    """Return the text of the default template, or None if none is known."""
    if settings.chat_template:
        try:
            return read_template(settings.chat_template)
        except TemplateError:
            return None  # the load of the model says so
    return header.chat_template or header.chat_templates.get("default")


def read_template(text_or_path: str) -> str:
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
