"""Finds the model's file and begins to read it before anything heavy is imported.

The settings are not read yet, because pydantic alone takes 0.1 s. The head start is therefore a guess from the raw
environment. There is none for a model that must be downloaded, or if a setting is wrong. `ReadAhead` compares the guess
with the files that the settings lead to, and stops a wrong one.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from worker_gguf import environment
from worker_gguf.errors import WorkerError
from worker_gguf.readahead.prefetch import Prefetch
from worker_gguf.readahead.room import page_cache_room_bytes
from worker_gguf.store.places import BAKED_DIR, RUNPOD_VOLUME, cache_dirs, library_cache_dir
from worker_gguf.store.ref import ModelRef
from worker_gguf.store.resolve import locate

__all__ = ["begin", "searched"]


def begin(
    model: str | None = None, environ: Mapping[str, str] | None = None, *, in_child: bool = False
) -> Prefetch | None:
    """Begin to read the model if it is on disk. `model` takes precedence over the environment.

    With `in_child`, a child process reads, unless this process has another thread already.
    """
    given = environment.given(environ)
    mode = given.get("prefetch", "auto").lower()
    if mode not in ("auto", "on") or given.get("load_mode", "").lower() == "direct":
        return None
    try:
        n_readers = int(given.get("prefetch_readers", "auto").lower().replace("auto", "0"))
        baked_dir = Path(given.get("model_baked_dir", BAKED_DIR))
        found = locate(ModelRef.parse(model or _reference(given)), searched(given), baked_dir=baked_dir)
        if found is None or not 0 <= n_readers <= 256:
            return None
        limit_bytes = None if mode == "on" else page_cache_room_bytes()
        is_alone = in_child and threading.active_count() == 1
        return Prefetch(found.paths, n_readers=n_readers or None, limit_bytes=limit_bytes).start(in_child=is_alone)
    except (WorkerError, OSError, ValueError):
        return None


def searched(given: Mapping[str, str], volume: Path = RUNPOD_VOLUME) -> list[Path]:
    """Return the caches that the settings will search, from the variables as they are given."""
    library = library_cache_dir(given.get("hf_hub_cache"), given.get("hf_home"))
    return cache_dirs(given.get("model_cache_dir"), library, volume)


def _reference(given: Mapping[str, str]) -> str:
    if "models" in given:
        # Only the short form, whose first model is loaded at the start. Any other form would need a YAML parser.
        return given["models"].partition(",")[0].partition("=")[2].strip()
    if "model_repository_id" in given and "model_filename" in given:
        return str(ModelRef.from_pair(given["model_repository_id"], given["model_filename"]))
    return given.get("model", "embedded")
