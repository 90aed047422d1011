"""The names of Ollama's options, and of the fields of a chat or a completion that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from worker_gguf.engine.request import SamplingParams

__all__ = ["IGNORED_OPTIONS", "OPTIONS"]

# Further options under their names here: all samplers, and what ends an answer.
_ALSO: Final = ("min_tokens", "banned_strings", "stop_token_ids")

OPTIONS: Final[Mapping[str, str]] = {
    "num_predict": "max_tokens",
    "stop": "stop",
    **{name: name for name in SamplingParams.__struct_fields__},
    **{name: name for name in _ALSO},
}
"""The options that are honoured, and the names of their fields."""

# The client's reason to send it, or what takes its place.
IGNORED_OPTIONS: Final[Mapping[str, str]] = {
    "draft_num_predict": "speed only",
    "embedding_only": "of older versions",
    "f16_kv": "of older versions",
    "logits_all": "of older versions",
    "low_vram": "of older versions",
    "main_gpu": "set at the start",
    "num_batch": "set at the start",
    "num_ctx": "the context is set at the start",
    "num_gpu": "set at the start",
    "num_keep": "nothing is cut off here",
    "num_thread": "set at the start",
    "numa": "of older versions",
    "penalize_newline": "of older versions",
    "tfs_z": "of older versions",
    "use_mlock": "set at the start",
    "use_mmap": "set at the start",
    "vocab_only": "of older versions",
}
