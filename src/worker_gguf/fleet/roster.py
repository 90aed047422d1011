"""Reads MODELS: the name and the settings of each model, checked before anything is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from worker_gguf.errors import ModelNotFound, SettingsError
from worker_gguf.settings import Settings
from worker_gguf.settings.fields import Engine, Fleet, Limits, Memory, Model, Sampling
from worker_gguf.start.model_card import is_private
from worker_gguf.store import ModelRef

__all__ = ["Entry", "read_roster"]

_LIMITS: Final = {name for name in Limits.model_fields if name != "max_body_mb"}
_PER_MODEL: Final = {"chat_template", "tokenizer"}
_ALLOWED: Final = (
    {"lora", "mmproj"} | _PER_MODEL | _LIMITS | {*Memory.model_fields, *Engine.model_fields, *Sampling.model_fields}
)
# Variables for a worker with a single model do not apply to the models of the list.
_NOT_SHARED: Final = {*Fleet.model_fields, *Model.model_fields} - {
    "model_cache_dir",
    "model_cache_max_gb",
    "model_baked_dir",
    "hf_token",
    "verify_model",
    *_PER_MODEL,
}
# The text before the `=` of an alias has only these characters. A URL with a query has others before its `=`.
_WITH_ALIAS: Final = re.compile(r"\s*([\w.-]+(?:[/:][\w.-]+)*)\s*=\s*(\S.*)", re.DOTALL)


class Entry(Struct, frozen=True):
    """One model of the list. `settings.model_alias` is equal to `name`."""

    name: str
    settings: Settings


def read_roster(settings: Settings) -> tuple[Entry, ...]:
    """Read MODELS. The first entry is the default model. Raises a SettingsError that names the wrong entry."""
    entries: list[Entry] = []
    for number, written in enumerate(_listed((settings.models or "").strip()), start=1):
        entry = _entry(settings, written, number)
        if any(entry.name.lower() == other.name.lower() for other in entries):
            raise SettingsError(
                f"{_where(number, written)} has the same name as another entry. Give each an alias of its own."
            )
        entries.append(entry)
    if not entries:
        raise SettingsError("MODELS lists no model. Write `alias=org/repo:QUANT, …`, or unset it and use MODEL.")
    return tuple(entries)


def _listed(text: str) -> Iterator[Mapping[str, Any]]:
    """Yield the entries as they are written, from the short form, from JSON or YAML, or from a file."""
    if not _is_document(text):
        if "=" in text or not text.lower().endswith((".yaml", ".yml", ".json")):
            yield from _inline(text)
            return
        text = _read(text)
    document = _parse(text)
    if isinstance(document, Mapping) and set(document) == {"models"}:
        document = document["models"]
    if not isinstance(document, list):
        raise SettingsError("MODELS must be a list of entries, each with `model` and its settings. See docs/models.md.")
    for number, item in enumerate(document, start=1):
        if isinstance(item, str):
            yield from _inline(item)
        elif isinstance(item, Mapping):
            yield {str(key): value for key, value in item.items()}
        else:
            raise SettingsError(f"MODELS entry {number} is neither a reference nor a mapping. See docs/models.md.")


def _is_document(text: str) -> bool:
    return text.startswith(("[", "{", "- ")) or "\n" in text


def _inline(text: str) -> Iterator[Mapping[str, Any]]:
    for part in filter(str.strip, text.split(",")):
        found = _WITH_ALIAS.fullmatch(part)
        yield {"alias": found[1], "model": found[2].strip()} if found else {"model": part.strip()}


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"MODELS={path!r} cannot be read: {reason}. Check the path.") from None


def _parse(text: str) -> object:
    if text.startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError:
            pass  # it may be the flow style of YAML, which is not JSON
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise SettingsError(
            f"MODELS is not valid YAML{where}: {getattr(error, 'problem', 'it cannot be read')}."
        ) from None


def _entry(settings: Settings, written: Mapping[str, Any], number: int) -> Entry:
    where = _where(number, written)
    values = {name.lower(): value for name, value in written.items()}
    model, alias = values.pop("model", None), values.pop("alias", None)
    if not isinstance(model, str) or not model.strip():
        raise SettingsError(f"{where} names no model: set `model` to a reference such as org/repo:Q4_K_M.")
    if alias is not None and (not isinstance(alias, str) or not alias.strip()):
        raise SettingsError(f"{where}: `alias` must be a text.")
    for name in values.keys() - _ALLOWED:
        raise SettingsError(f"{where}: {_why_not(name)}")
    try:
        ModelRef.parse(model)
    except ModelNotFound as error:
        raise SettingsError(f"{where}: {error.message} An entry may be `alias=reference`, too.") from None
    name = (alias or _name_of(model)).strip()
    values |= {"model": model.strip(), "model_alias": name}
    try:
        own = settings.changed(_NOT_SHARED, values)
        if own.names_projector:
            ModelRef.parse(own.mmproj)
    except SettingsError as error:
        raise SettingsError("\n".join(f"{where}: {line}" for line in error.message.splitlines())) from None
    except ModelNotFound as error:
        raise SettingsError(f"{where}: MMPROJ: {error.message}") from None
    # Unlike other variables, this one has priority over the entries: it is how all projectors are left out.
    return Entry(name, own.changed((), {"mmproj": "none"}) if settings.mmproj == "none" else own)


def _why_not(name: str) -> str:
    if name == "draft_model":
        return "DRAFT_MODEL is for a worker with a single model: set MODEL and DRAFT_MODEL, and unset MODELS."
    if name in Settings.model_fields:
        return f"{name.upper()} is for the whole worker: set it as a variable, not in MODELS."
    return f"{name.upper()} is not a setting of a model; docs/models.md lists them."


def _name_of(model: str) -> str:
    """Return the reference, or only the file's name if the reference is a path or a URL, which may be private."""
    return Path(model.partition("?")[0]).stem if is_private(model) else model


def _where(number: int, written: Mapping[str, Any]) -> str:
    alias = next((value for key, value in written.items() if key.lower() == "alias" and isinstance(value, str)), None)
    return f"MODELS entry {number} ({alias})" if alias else f"MODELS entry {number}"
