"""The folders for models on this machine, by default and by environment variables. Imports no large module.

The settings and the head start both use it. The head start runs before the settings are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["BAKED_DIR", "RUNPOD_VOLUME", "cache_dirs", "library_cache_dir", "volume_cache_dir"]

RUNPOD_VOLUME: Final = Path("/runpod-volume")
"""The path at which RunPod mounts a network volume and its own cached models."""
BAKED_DIR: Final = Path("/models")
"""The folder of an image for a model that was put into it."""


def volume_cache_dir(volume: Path = RUNPOD_VOLUME) -> Path:
    return volume / "huggingface-cache" / "hub"


def library_cache_dir(hf_hub_cache: Path | str | None, hf_home: Path | str | None) -> Path:
    """Return the cache folder that huggingface_hub would use."""
    return Path(hf_hub_cache or Path(hf_home or "~/.cache/huggingface", "hub")).expanduser()


def cache_dirs(model_cache_dir: Path | str | None, library: Path, volume: Path = RUNPOD_VOLUME) -> list[Path]:
    """Return the caches in the Hub's layout, in the order in which they are searched."""
    own = Path(model_cache_dir).expanduser() if model_cache_dir else library
    return list(dict.fromkeys((volume_cache_dir(volume), own, library)))
