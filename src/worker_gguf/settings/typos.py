"""Finds variables with names similar to settings, which are probably misspelt and have no effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from worker_gguf.settings import Settings

__all__ = ["meant", "misspellings"]

_NEAR: Final = 0.85
"""The minimum ratio of difflib. N_CTXX and API_KEY exceed it; HOSTNAME, OMP_NUM_THREADS and HF_XET_CACHE do not."""


def meant(name: str) -> str | None:
    """Return the setting that was probably meant. None for settings, variables of RunPod and names without a match."""
    from difflib import get_close_matches  # imported here, because the start does not need it

    if name.lower() in Settings.model_fields or name.upper().startswith("RUNPOD_"):
        return None
    near = get_close_matches(name.upper(), [known.upper() for known in Settings.model_fields], 1, _NEAR)
    return near[0] if near else None


def misspellings(names: Iterable[str]) -> Mapping[str, str]:
    """Return the setting that was probably meant for each misspelt name. Only names in upper case are checked."""
    return {name: near for name in names if name.isupper() and (near := meant(name)) is not None}
