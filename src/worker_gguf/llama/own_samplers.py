"""Samplers that llama.cpp does not have, in its chains: quadratic smoothing and top-a.

Each is a `llama_sampler` whose functions are Python's, over the candidates that the samplers before it left.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker_gguf.llama.bindings import llama_cpp

__all__ = ["CANDIDATE", "OwnSampler", "smoothing", "top_a"]

CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
"""llama.h: struct llama_token_data"""

_Rows = NDArray[Any]


class OwnSampler(NamedTuple):
    """A sampler, and what llama.cpp calls: keep it as long as the sampler."""

    pointer: int
    kept: tuple[object, ...]


def smoothing(factor: float, curve: float) -> OwnSampler:
    """Create the quadratic sampler of text-generation-webui.

    It bends logits down by their distance d from the largest one: factor * ((3 - curve) / 2 * d^2 + (curve - 1) / 2 *
    d^3). The order of the tokens stays the same.
    """
    quadratic, cubic = factor * (3 - curve) / 2, factor * (curve - 1) / 2

    def bend(rows: _Rows) -> _Rows:
        logits = rows["logit"].astype(np.float64)
        largest = logits.max()
        if not np.isfinite(largest):
            return rows
        distances = largest - logits
        with np.errstate(invalid="ignore", over="ignore"):  # banned tokens are infinitely far
            bent = largest - distances**2 * (quadratic + cubic * distances)
        rows["logit"] = np.where(np.isfinite(logits), bent, logits)
        return rows

    return _create(bend)


def top_a(share: float, min_keep: int) -> OwnSampler:
    """Create the sampler of KoboldAI that keeps tokens of at least `share` times the square of the largest probability.

    It keeps at least `min_keep` tokens.
    """

    def cut(rows: _Rows) -> _Rows:
        logits = rows["logit"].astype(np.float64)
        largest = logits.max()
        if not np.isfinite(largest):
            return rows  # all are banned, or one is not a number; llama.cpp would abort without any candidate
        weights = np.exp(logits - largest)
        probabilities = weights / weights.sum()
        kept = probabilities >= share * probabilities.max() ** 2
        if np.count_nonzero(kept) < min_keep:
            kept[np.argsort(-probabilities, kind="stable")[:min_keep]] = True
        return rows[kept]

    return _create(cut)


def _create(change: Callable[[_Rows], _Rows]) -> OwnSampler:
    def apply(_sampler: object, array: Any) -> None:
        candidates = array.contents
        if not candidates.size:
            return
        address = ctypes.addressof(candidates.data.contents)
        buffer = (ctypes.c_char * (candidates.size * CANDIDATE.itemsize)).from_address(address)
        rows = np.frombuffer(buffer, CANDIDATE)
        changed = change(rows)
        if changed is not rows:
            rows[: changed.size] = changed
            candidates.size = changed.size

    interface = llama_cpp.llama_sampler_i()
    interface.name = name = llama_cpp.llama_sampler_i_name(lambda _: b"own")
    interface.apply = called = llama_cpp.llama_sampler_i_apply(apply)
    pointer = llama_cpp.llama_sampler_init(ctypes.byref(interface), None)
    return OwnSampler(pointer, (interface, name, called))
