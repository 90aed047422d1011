"""Reads the header of a GGUF file: a model's description, without its weights and without llama.cpp.

Arrays are skipped, not parsed: a vocabulary of 128k tokens costs some milliseconds. Reads any seekable binary file,
also a remote one by ranges, in windows of bounded size. A hostile header is refused.
"""

from __future__ import annotations

from worker_gguf.gguf.abilities import Abilities, abilities_of
from worker_gguf.gguf.adapter import changed_matrix, why_no_adapter_of
from worker_gguf.gguf.header import ArrayInfo, ModelHeader, Rope, TensorInfo, Value
from worker_gguf.gguf.reader import read_header, read_headers, read_texts
from worker_gguf.gguf.special import SpecialIds, special_ids
from worker_gguf.gguf.texts import Difference, first_difference, text_at
from worker_gguf.gguf.types import GGML_TYPES

__all__ = [
    "GGML_TYPES",
    "Abilities",
    "ArrayInfo",
    "Difference",
    "ModelHeader",
    "Rope",
    "SpecialIds",
    "TensorInfo",
    "Value",
    "abilities_of",
    "changed_matrix",
    "first_difference",
    "read_header",
    "read_headers",
    "read_texts",
    "special_ids",
    "text_at",
    "why_no_adapter_of",
]
