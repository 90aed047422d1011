"""Finds variables whose names are nearly those of settings: probably typing errors, which have no effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from worker_gguf.settings import Settings

__all__ = ["meant", "misspellings"]

_NEAR: Final = 0.85
"""difflib's ratio: N_CTXX and API_KEY are over it, HOSTNAME, OMP_NUM_THREADS and HF_XET_CACHE are not."""


def meant(name: str) -> str | None:
    """Return the setting that `name` was probably meant to be, or None for a setting or a variable of RunPod."""
    from difflib import get_close_matches  # imported late, because a start rarely needs it

    if name.lower() in Settings.model_fields or name.upper().startswith("RUNPOD_"):
        return None
    near = get_close_matches(name.upper(), [known.upper() for known in Settings.model_fields], 1, _NEAR)
    return near[0] if near else None


def misspellings(names: Iterable[str]) -> Mapping[str, str]:
    """Return the names in capital letters that were probably meant to be settings, with those settings."""
    return {name: near for name in names if name.isupper() and (near := meant(name)) is not None}
