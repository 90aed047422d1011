"""A set of LoRA adapters, as requests and steps name it. Knows nothing of files, names or llama.cpp."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import TypeAlias

__all__ = ["AdapterSet", "adapter_set", "is_adapter_set"]

AdapterSet: TypeAlias = tuple[tuple[int, float], ...]
"""The number of each adapter in the order of LORA, from 0, and its scale. In order of the numbers; empty for none."""


def adapter_set(adapters: Iterable[tuple[int, float]]) -> AdapterSet:
    """Return the set of these adapters, each of which is named once. One with a scale of 0 is no part of it."""
    return tuple(sorted((number, float(scale)) for number, scale in adapters if scale))


def is_adapter_set(adapters: AdapterSet, n_adapters: int) -> bool:
    """Return whether this is a set of some of the first `n_adapters` adapters, in the form of `adapter_set`."""
    numbers = [number for number, _ in adapters]
    return (
        all(0 <= number < n_adapters for number in numbers)
        and all(number < following for number, following in pairwise(numbers))
        and all(scale and math.isfinite(scale) for _, scale in adapters)
    )
