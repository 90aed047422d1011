"""What the start can do before anything heavy is imported: find the model's file and begin to read it.

The settings are not read yet, since pydantic alone takes 0.1 s. So this is a guess from the raw environment: a model
that would have to be downloaded, a bad setting, anything odd, and there is no head start. `read_ahead` compares it with
the files that the settings lead to and drops it when it is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from worker_gguf import environment
from worker_gguf.errors import WorkerError
from worker_gguf.readahead.prefetch import Prefetch
from worker_gguf.readahead.room import page_cache_room_bytes
from worker_gguf.store.ref import ModelRef
from worker_gguf.store.resolve import locate

__all__ = ["begin", "cache_dirs"]

RUNPOD_VOLUME = Path("/runpod-volume")


def begin(
    model: str | None = None, environ: Mapping[str, str] | None = None, *, in_child: bool = False
) -> Prefetch | None:
    """Begin to read the model if it is on disk; `model` wins over the environment. In a child process, if this one has
    no other thread yet."""
    given = environment.given(environ)
    wish = given.get("prefetch", "auto").lower()
    if wish not in ("auto", "on") or given.get("load_mode", "").lower() == "direct":
        return None
    try:
        n_readers = int(given.get("prefetch_readers", "auto").lower().replace("auto", "0"))
        baked_dir = Path(given.get("model_baked_dir", "/models"))
        found = locate(ModelRef.parse(model or _reference(given)), cache_dirs(given), baked_dir=baked_dir)
        if found is None or not 0 <= n_readers <= 256:
            return None
        limit_bytes = None if wish == "on" else page_cache_room_bytes()
        is_alone = in_child and threading.active_count() == 1
        return Prefetch(found.paths, n_readers=n_readers or None, limit_bytes=limit_bytes).start(in_child=is_alone)
    except (WorkerError, OSError, ValueError):
        return None


def cache_dirs(given: Mapping[str, str], volume: Path = RUNPOD_VOLUME) -> list[Path]:
    """As Settings.cache_dirs has them."""
    library = given.get("hf_hub_cache") or Path(given.get("hf_home", "~/.cache/huggingface"), "hub")
    found = [volume / "huggingface-cache" / "hub", given.get("model_cache_dir", library), library]
    return list(dict.fromkeys(Path(path).expanduser() for path in found))


def _reference(given: Mapping[str, str]) -> str:
    if "models" in given:
        # Only its short form, of which the first model is loaded at the start; a file would have to be read as YAML.
        return given["models"].partition(",")[0].partition("=")[2].strip()
    if "model_repository_id" in given and "model_filename" in given:
        return f"{given['model_repository_id']}/{given['model_filename']}"
    return given.get("model", "embedded")
