"""Which layers of a model have a sliding window. Few files state it, so llama.cpp's rules are repeated here."""

from __future__ import annotations

from typing import Final

from worker_gguf.gguf import ArrayInfo, ModelHeader

__all__ = ["KEY", "window_of"]

KEY: Final = "attention.sliding_window"
"""The number of tokens that a layer looks back on. Without this key, or with 0, no layer has a window."""

# One layer of so many sees all tokens: the last one of each group.
_LAST_SEES_ALL: Final = {
    "afmoe": 4, "cohere2": 4, "exaone-moe": 4, "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "llama4": 4,
    "mellum": 4, "muse-glimmer": 4, "olmo2": 4, "plamo3": 8,
}  # fmt: skip
# Or the first one.
_FIRST_SEES_ALL: Final = {"cohere2moe": 4, "laguna": 4, "smallthinker": 4}


def window_of(header: ModelHeader, layer: int) -> int:
    """Return the number of tokens that a layer looks back on; 0 means all.

    An architecture that is not known here, and whose file does not state the layers, counts as one without a window, so
    a plan has too much memory for it and never too little. Source: the calls of load_swa_pattern in src/models of
    llama.cpp (llama-cpp-python 0.3.36).
    """
    window = header.get(KEY)
    if not isinstance(window, int) or not window:
        return 0
    return window if _has_window(header, layer) else 0


def _has_window(header: ModelHeader, layer: int) -> bool:
    stated = header.get(f"{KEY}_pattern")
    if isinstance(stated, ArrayInfo):
        values = stated.values or ()
        return bool(layer < len(values) and values[layer])
    first = _FIRST_SEES_ALL.get(header.architecture, 0)
    period = first or _LAST_SEES_ALL.get(header.architecture, 0)
    if period and isinstance(stated, int) and stated:
        period = stated
    return bool(period) and layer % period != (0 if first else period - 1)
