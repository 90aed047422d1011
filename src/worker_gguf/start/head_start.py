"""Starts the engine process, and finds the model's file and starts to read it, before large modules are imported.

The settings are not read yet, because importing pydantic takes 0.1 s. So the head start guesses the file from the
environment variables. It does nothing if the model must be downloaded or if a setting is wrong. `ReadAhead` later
compares the guess with the files that the settings specify, and drops a wrong guess.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from worker_gguf import environment
from worker_gguf.errors import WorkerError
from worker_gguf.link.spawn import Spawned
from worker_gguf.readahead.prefetch import Prefetch
from worker_gguf.readahead.room import page_cache_room_bytes
from worker_gguf.store.places import BAKED_DIR, RUNPOD_VOLUME, cache_dirs, library_cache_dir
from worker_gguf.store.ref import ModelRef
from worker_gguf.store.resolve import locate

if TYPE_CHECKING:
    from worker_gguf.observe.timeline import Timeline
    from worker_gguf.start.first_look import FirstLook

__all__ = ["HeadStart", "begin", "searched"]


class HeadStart(NamedTuple):
    """What has begun before the settings are read: the engine process, and a prefetch unless nothing can be read.

    `look` reads the header and the vocabulary of the model that is read ahead.
    """

    prefetch: Prefetch | None
    process: Spawned | None = None
    look: FirstLook | None = None

    def with_look(self, timeline: Timeline) -> HeadStart:
        """Begin to read the header and the vocabulary of the model that is read ahead."""
        if self.prefetch is None:
            return self
        from worker_gguf.start.first_look import FirstLook

        environment.hide_gpus()  # before the thread starts, because this one goes on to read the environment
        return self._replace(look=FirstLook(self.prefetch, timeline).start())

    def settle(self) -> None:
        """Wait for what must not run while this process ends."""
        if self.look is not None:
            self.look.settle()

    def close(self) -> None:
        if self.prefetch is not None:
            self.prefetch.close()
        if self.process is not None:
            self.process.socket.close()  # the process notices, and ends


def begin(
    model: str | None = None, environ: Mapping[str, str] | None = None, *, in_child: bool = False
) -> Prefetch | None:
    """Start to read the model if it is on disk. `model` has priority over the environment.

    With `in_child`, a child process reads, if this process has no other thread yet. Returns None if nothing is read.
    """
    variables = environment.given(environ)
    mode = variables.get("prefetch", "auto").lower()
    if mode not in ("auto", "on") or variables.get("load_mode", "").lower() == "direct":
        return None
    try:
        n_readers = int(variables.get("prefetch_readers", "auto").lower().replace("auto", "0"))
        baked_dir = Path(variables.get("model_baked_dir", BAKED_DIR))
        local = locate(ModelRef.parse(model or _reference(variables)), searched(variables), baked_dir=baked_dir)
        if local is None or not 0 <= n_readers <= 256:
            return None
        limit_bytes = None if mode == "on" else page_cache_room_bytes()
        is_alone = in_child and threading.active_count() == 1
        return Prefetch(local.paths, n_readers=n_readers or None, limit_bytes=limit_bytes).start(in_child=is_alone)
    except (WorkerError, OSError, ValueError):
        return None


def searched(variables: Mapping[str, str], volume: Path = RUNPOD_VOLUME) -> list[Path]:
    """Return the caches that the settings will search, from `variables` with names in lower case."""
    library = library_cache_dir(variables.get("hf_hub_cache"), variables.get("hf_home"))
    return cache_dirs(variables.get("model_cache_dir"), library, volume)


def _reference(variables: Mapping[str, str]) -> str:
    if "models" in variables:
        # The start loads the first model of the list. Only the short form is read here, because a file needs YAML.
        first = variables["models"].partition(",")[0]
        return (first.partition("=")[2] or first).strip()
    if "model_repository_id" in variables and "model_filename" in variables:
        return str(ModelRef.from_pair(variables["model_repository_id"], variables["model_filename"]))
    return variables.get("model", "embedded")
