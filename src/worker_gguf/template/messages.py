"""Converts messages for chat templates: plain JSON types, no nulls, reasoning under all of its names.

This module does the same as Transformers before it renders. shape.py makes the changes that a particular template
needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker_gguf.errors import TemplateError

__all__ = ["GivenList", "cut_at_mark", "mark_end", "plain", "plain_messages", "plain_objects", "with_reasoning"]

# The standard name first. A message with one of them also gets the others that templates read.
_REASONING = ("reasoning_content", "thinking", "reasoning")
# Added to the text to continue and searched in the output. Its space shows whether the template strips texts.
_MARK = "WORKER-GGUF-CONTINUES-HERE "


class GivenList(list[Any]):
    """A list from a request. A template may change only the lists that it makes itself."""


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copy the messages without their null fields, which many templates would print as `None`."""
    if not messages:
        raise TemplateError("The conversation is empty. Send at least one message.", param="messages")
    copies = plain_objects(messages, "messages") or []
    return [{name: value for name, value in message.items() if value is not None} for message in copies]


def plain_objects(values: Sequence[Mapping[str, Any]] | None, param: str) -> list[dict[str, Any]] | None:
    """Copy a list of JSON objects. Raises TemplateError. `param` is its name in the request."""
    if values is None:
        return None
    if not all(isinstance(value, Mapping) for value in values):
        raise TemplateError(f"Every entry of '{param}' must be an object.", param=param)
    return [plain(value, param) for value in values]


def plain(value: Mapping[str, Any], param: str) -> dict[str, Any]:
    """Copy an object to plain JSON types, because the sandbox may not restrict the methods of other types."""
    try:
        return {str(key): _copy(item) for key, item in value.items()}
    except RecursionError as error:
        raise TemplateError(f"'{param}' is nested too deeply.", param=param) from error


def _copy(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {_copy(key): _copy(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_copy(item) for item in value)
    if isinstance(value, list):
        return GivenList(_copy(item) for item in value)
    return f"<{type(value).__name__}>"


def with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message with its reasoning under all names that templates read."""
    reasoning = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def mark_end(message: dict[str, Any], field: str, source: str) -> str:
    """Add the mark to the text to continue, in place, and return that text. Raises TemplateError."""
    text = message.get(field)
    fields = [name for name in _REASONING if message.get(name) == text] if field in _REASONING else [field]
    if text is None:
        raise _cannot_continue(f"the last message has no '{field}'")
    if not any(name in source for name in fields):
        raise _cannot_continue(f"the chat template does not use '{field}'")
    if isinstance(text, str):
        message.update(dict.fromkeys(fields, text + _MARK))
        return text
    for part in reversed(text if isinstance(text, list) else []):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            last: str = part["text"]
            part["text"] = last + _MARK
            return last
    raise _cannot_continue(f"the last message's '{field}' has no text")


def cut_at_mark(rendered: str, text: str) -> str:
    """Cut off the prompt at the end of the text to continue. Raises TemplateError."""
    end = rendered.rfind(_MARK.strip())
    if end < 0 or text.strip() not in rendered:
        raise _cannot_continue("the chat template leaves out part of the last message")
    kept = rendered[:end]
    # If the template removed the space of the mark, it strips texts, so spaces at the end of the text are removed, too.
    return kept if rendered.startswith(_MARK, end) else kept.rstrip()


def _cannot_continue(why: str) -> TemplateError:
    return TemplateError(
        f"continue_final_message is set, but {why}. Send a last message with text, or leave it out.",
        param="continue_final_message",
    )
