"""Reads LORA: the name, the reference and the scale of each adapter."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from worker_gguf.errors import ModelNotFound
from worker_gguf.store.ref import EmbeddedRef, HubRef, ModelRef, PathRef, UrlRef

__all__ = ["AdapterEntry", "read_adapters"]

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# Clients of Ollama's API put this after the name of a model.
_TAKEN: Final = ("latest",)
# A path or a URL may have `=`, too, but not before its first `/` or `:`.
_NAMED: Final = re.compile(r"([^=/:?]*)=(.*)", re.DOTALL)
_SCALED: Final = re.compile(r"(.*):\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", re.DOTALL | re.IGNORECASE)


class AdapterEntry(Struct, frozen=True):
    """One adapter of LORA. `scale` is that of requests which name the adapter without a scale."""

    name: str
    ref: ModelRef
    scale: float = 1.0


def read_adapters(entries: Sequence[str]) -> tuple[AdapterEntry, ...]:
    """Read entries of the form `[name=]reference[:scale]`. Raises ValueError, which names the wrong entry."""
    found: list[AdapterEntry] = []
    for number, text in enumerate(entries, start=1):
        try:
            entry = _entry(text.strip())
            if any(entry.name.lower() == other.name.lower() for other in found):
                raise ValueError(f"another entry has the name {entry.name!r}, too: write `name=reference`")
        except ModelNotFound as error:
            raise ValueError(f"LORA entry {number}{_shown(text)}: {error.message.removesuffix('.')}") from None
        except ValueError as error:
            raise ValueError(f"LORA entry {number}{_shown(text)}: {error}") from None
        found.append(entry)
    return tuple(found)


def _entry(text: str) -> AdapterEntry:
    named = _NAMED.fullmatch(text)
    name, rest = (named[1].strip(), named[2].strip()) if named else (None, text)
    scaled = _SCALED.fullmatch(rest)
    reference, scale = (scaled[1].strip(), float(scaled[2])) if scaled else (rest, 1.0)
    if not scale or not math.isfinite(scale):
        raise ValueError(f"the scale {scale:g} is not a number other than 0")
    ref = ModelRef.parse(reference)
    if isinstance(ref, EmbeddedRef):
        raise ValueError("the embedded model is not an adapter")
    if name is None:
        name = _name_of(ref)
    if not _NAME.fullmatch(name) or name.isdigit() or name.lower() in _TAKEN:
        raise ValueError(
            f"{name!r} cannot be the name of an adapter: write `name=reference` with a name of at most 64 letters, "
            "digits, `.`, `_` and `-`, which is no number and not `latest`"
        )
    return AdapterEntry(name, ref, scale)


def _name_of(ref: ModelRef) -> str:
    """Return the name of the file without its ending, or that of the repository if the reference has no whole file."""
    match ref:
        case PathRef(path):
            return path.stem
        case UrlRef(url):
            return PurePosixPath(unquote(urlsplit(url).path)).stem
        case HubRef(file=str(file)) if "*" not in file:
            return PurePosixPath(file).stem
        case HubRef(repo):
            return repo.partition("/")[2]
    raise AssertionError(f"{type(ref).__name__} is not the reference of an adapter")


def _shown(text: str) -> str:
    """Return the entry for a message, without the query of a URL, which may be a signature."""
    return f" ({text.strip().partition('?')[0]})" if text.strip() else ""
