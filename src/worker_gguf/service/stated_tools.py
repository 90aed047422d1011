"""Writes tools, calls and results into the texts of a conversation, for a template that leaves some of them out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from worker_gguf.markup.stated_format import stated_call

__all__ = ["with_calls_as_text", "with_instructions"]

Message = Mapping[str, Any]


def with_instructions(messages: Sequence[Message], instructions: str) -> list[Message]:
    """Return the conversation with instructions at the end of its first system message, or in one of their own."""
    first, *rest = messages
    if first.get("role") in ("system", "developer"):
        return [{**first, "content": _paragraphs(*_texts(first), instructions)}, *rest]
    return [{"role": "system", "content": instructions}, *messages]


def with_calls_as_text(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with its calls as text, for a template that knows neither calls nor results.

    Results become messages of the user, and are joined with what the user says next, because such a template often
    wants user and assistant to alternate.
    """
    written: list[Message] = []
    results: list[str] = []
    for message in messages:
        role = message.get("role")
        if role == "tool":
            text = "\n".join(_texts(message))
            results.append(f"<tool_response>\n{text}\n</tool_response>")
            continue
        if results and role == "user":
            written.append({**message, "content": _paragraphs(*results, *_texts(message))})
        else:
            written += _as_user(results)
            written.append(_with_calls(message) if role == "assistant" and message.get("tool_calls") else message)
        results = []
    return [*written, *_as_user(results)]


def _as_user(results: Sequence[str]) -> list[Message]:
    return [{"role": "user", "content": _paragraphs(*results)}] if results else []


def _with_calls(message: Message) -> Message:
    calls = (_call_text(call.get("function") or {}) for call in message["tool_calls"])
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": _paragraphs(*_texts(message), "\n".join(calls))}


def _call_text(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return stated_call(str(function.get("name", "")), text or "{}")


def _texts(message: Message) -> list[str]:
    """Return the texts of a message. protocol/messages.py has checked that there is nothing else."""
    content = message.get("content")
    if isinstance(content, list):
        return [part.get("text") or part.get("refusal") or "" for part in content]
    return [content] if content else []


def _paragraphs(*texts: str) -> str:
    return "\n\n".join(texts)
