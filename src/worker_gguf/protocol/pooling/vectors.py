"""Vectors as clients get them: cut, normalised, and as base64; and scores as probabilities."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Sequence

from worker_gguf.protocol.models import ModelCard

__all__ = ["as_base64", "cosine", "finished", "relevance"]

# llama.cpp: the graph of a ranker of these architectures ends with a softmax, so its scores are probabilities.
_PROBABILITIES = frozenset({"qwen3", "qwen3vl", "qwen3vlmoe"})


def finished(vector: Sequence[float], n_dimensions: int | None = None, *, is_normal: bool = True) -> Sequence[float]:
    """Return the first `n_dimensions` numbers of a vector, None for all, with a length of 1 if `is_normal`.

    Models that were trained for it keep their meaning in the first numbers (Matryoshka, arxiv.org/abs/2205.13147).
    """
    kept = vector if n_dimensions is None else vector[:n_dimensions]
    length = math.hypot(*kept) if is_normal else 0.0
    return [number / length for number in kept] if length else kept


def as_base64(vector: Sequence[float]) -> str:
    """Return a vector as OpenAI's clients read it: little-endian 32-bit floats in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors, 0 if one of them has no direction."""
    lengths = math.hypot(*left) * math.hypot(*right)
    return math.fsum(a * b for a, b in zip(left, right, strict=True)) / lengths if lengths else 0.0


def relevance(scores: Sequence[float], card: ModelCard, *, is_raw: bool = False) -> float:
    """Return the relevance of a document, from 0 to 1, of the scores that a model gives it.

    Most models give a logit, which `is_raw` returns as it is.
    """
    score = scores[0]
    return score if is_raw or card.architecture in _PROBABILITIES else _sigmoid(score)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
