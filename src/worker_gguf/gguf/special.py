"""The kind of a vocabulary, and its first and last token, with llama.cpp's values where the file has none.

Source: `llama_vocab::impl::load` in src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from worker_gguf.gguf.header import ModelHeader

__all__ = ["SpecialIds", "special_ids"]

# The values of `tokenizer.ggml.model`, each with its kind, BOS and EOS.
_KINDS: Final[Mapping[object, tuple[str, int | None, int | None]]] = MappingProxyType(
    {
        "llama": ("SentencePiece", 1, 2),
        "bert": ("WordPiece", 101, None),
        "gpt2": ("BPE", 11, 11),
        "hybriddna": ("BPE", 11, 11),
        "whitespace": ("BPE", 11, 11),
        "gemma4": ("BPE", None, None),
        "t5": ("Unigram", None, 1),
        "rwkv": ("RWKV", None, None),
        "plamo2": ("PLaMo-2", 1, 2),
    }
)
_WITHOUT_BOS: Final = ("chatglm-bpe", "glm4", "glm5")
"""Values of `tokenizer.ggml.pre` without a BOS of their own."""


class SpecialIds(NamedTuple):
    """`kind` is None for a vocabulary that llama.cpp does not know."""

    kind: str | None
    bos: int | None
    eos: int | None


def special_ids(header: ModelHeader) -> SpecialIds:
    """Return the kind and the special tokens that llama.cpp gives the vocabulary of this file."""
    kind, bos, eos = _KINDS.get(header.get("tokenizer.ggml.model"), (None, None, None))
    if header.get("tokenizer.ggml.pre") in _WITHOUT_BOS:
        bos = None
    return SpecialIds(
        kind, _or_default(header.bos_id, bos, header.n_vocab), _or_default(header.eos_id, eos, header.n_vocab)
    )


def _or_default(token: int | None, default: int | None, n_vocab: int) -> int | None:
    """Return the token of the file if it is in the vocabulary."""
    return default if token is None or token >= n_vocab else token
