"""Downloads models and finds them on disk. Independent of llama.cpp and the engine.

`ModelRef.parse` reads a reference, `locate` finds its files on disk without a network request, `ensure` fetches missing
files, and `UsageMark` protects files from pruning while they are used.

Each name is imported on first use, because the head start must not wait for the import of the download modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker_gguf.store.download import download_model, ensure
    from worker_gguf.store.hub import Hub
    from worker_gguf.store.ref import EmbeddedRef, HubRef, ModelRef, PathRef, UrlRef
    from worker_gguf.store.remote import RemoteModel, read_remote
    from worker_gguf.store.resolve import LocalModel, locate
    from worker_gguf.store.tokenizer import OriginalTokenizer, read_tokenizer
    from worker_gguf.store.usage_marks import UsageMark

__all__ = [
    "EmbeddedRef",
    "Hub",
    "HubRef",
    "LocalModel",
    "ModelRef",
    "OriginalTokenizer",
    "PathRef",
    "RemoteModel",
    "UrlRef",
    "UsageMark",
    "download_model",
    "ensure",
    "locate",
    "read_remote",
    "read_tokenizer",
]

_MODULES = {
    "download": ("download_model", "ensure"),
    "hub": ("Hub",),
    "ref": ("EmbeddedRef", "HubRef", "ModelRef", "PathRef", "UrlRef"),
    "remote": ("RemoteModel", "read_remote"),
    "resolve": ("LocalModel", "locate"),
    "tokenizer": ("OriginalTokenizer", "read_tokenizer"),
    "usage_marks": ("UsageMark",),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
