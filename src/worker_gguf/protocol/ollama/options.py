"""Brings Ollama's options, and what a client adds to them, to the fields of a chat or a completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.ollama.names import OPTIONS
from worker_gguf.protocol.parameters import ALIASES
from worker_gguf.protocol.screening import differing

__all__ = ["further_fields", "read_options"]

_FIELDS = frozenset(OPTIONS.values())
# Fields of the other routes that ask for what an answer of Ollama's API has no place for.
_NO_PLACE = frozenset({"echo", "return_token_ids", "stream_options", "messages", "prompt"})


def read_options(options: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, str], set[str]]:
    """Return the fields that options stand for, the name of the option of each, and the names of those without effect.

    Raises InvalidRequest.
    """
    fields: dict[str, Any] = {}
    sent: dict[str, str] = {}
    ignored: set[str] = set()
    for option, value in (options or {}).items():
        field = ALIASES.get(option, option)
        if value is None:
            continue
        if field not in _FIELDS:
            ignored.add(f"options.{option}")
        elif fields.setdefault(field, value) != value:
            raise differing(sent[field], f"options.{option}")
        else:
            sent[field] = f"options.{option}"
    if fields.get("max_tokens") == -2:
        fields["max_tokens"] = -1  # both mean the rest of the context, which is never shifted here
    return fields, sent, ignored


def further_fields(body: Mapping[str, Any], own: frozenset[str]) -> tuple[dict[str, Any], set[str]]:
    """Return the fields that a client added to those of the dialect, and the names of those without effect.

    Raises UnsupportedParameter for several answers, because the answers of this API have one.
    """
    further = {name: value for name, value in body.items() if name not in own}
    if further.pop("n", 1) != 1:
        raise UnsupportedParameter("Ollama's API has one answer for each request. Leave 'n' out.", param="n")
    ignored = _NO_PLACE & further.keys()
    return {name: value for name, value in further.items() if name not in ignored}, set(ignored)
