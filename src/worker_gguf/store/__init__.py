"""Where a model comes from and where it lies. Knows nothing of llama.cpp and of the engine.

`ModelRef.parse` reads what the user wrote, `locate` finds it on disk without a network call, `ensure` fetches what is
missing, `Hold` keeps it from being pruned while it is used.
"""

from __future__ import annotations

from worker_gguf.store.download import ensure
from worker_gguf.store.hub import Hub
from worker_gguf.store.in_use import Hold
from worker_gguf.store.ref import EmbeddedRef, HubRef, ModelRef, PathRef, UrlRef
from worker_gguf.store.remote import RemoteModel, read_remote
from worker_gguf.store.resolve import LocalModel, locate
from worker_gguf.store.tokenizer import OriginalTokenizer, read_tokenizer

__all__ = [
    "EmbeddedRef",
    "Hold",
    "Hub",
    "HubRef",
    "LocalModel",
    "ModelRef",
    "OriginalTokenizer",
    "PathRef",
    "RemoteModel",
    "UrlRef",
    "ensure",
    "locate",
    "read_remote",
    "read_tokenizer",
]
