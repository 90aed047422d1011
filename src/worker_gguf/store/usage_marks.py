"""Marks the files that a running worker uses on a shared volume, so that no other worker prunes them.

A mark is valid as long as it is renewed. Its age is measured by the volume's clock, which is read from the modification
time of a new file.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from worker_gguf.store.cache import Cache, is_inside
from worker_gguf.store.tuning import Tuning

__all__ = ["UsageMark", "used_paths", "volume_now"]

logger = logging.getLogger(__name__)


class UsageMark:
    """Protects the files of a model from pruning until it is released or this process ends.

    Does nothing for files outside the cache, or if the cache cannot be written, because then no worker prunes it.
    """

    def __init__(self, paths: Sequence[Path], cache_dir: Path, tuning: Tuning | None = None) -> None:
        self._tuning = tuning or Tuning()
        self._cache = Cache(cache_dir)
        self._path = self._cache.marks / f"{uuid.uuid4().hex}.json"
        self._released = threading.Event()
        files = [path.resolve() for path in paths if is_inside(path, cache_dir)]
        if not files:
            return
        self._files = [str(file.relative_to(cache_dir.resolve())) for file in files]
        try:
            self._mark()
            now = self._path.stat().st_mtime
        except OSError as error:
            logger.info("model not marked as in use", extra={"reason": str(error)})
            return
        for file in files:
            touch(file, now)
        threading.Thread(target=self._renew, name="in-use", daemon=True).start()

    def release(self) -> None:
        self._released.set()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _mark(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(self._files), encoding="utf-8")
        fresh.replace(self._path)

    def _renew(self) -> None:
        while not self._released.wait(self._tuning.in_use_beat_s):
            try:
                self._mark()
                if self._released.is_set():  # it was released during the write
                    self._path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("mark of use not renewed", extra={"reason": str(error)})


def touch(file: Path, now: float) -> None:
    """Set the access time of a file to `now`, a time of the volume's clock. Its modification time stays the same."""
    with suppress(OSError):
        os.utime(file, (now, file.stat().st_mtime))


def volume_now(cache: Cache) -> float:
    """Return the current time of the volume's clock."""
    cache.work.mkdir(parents=True, exist_ok=True)
    path = cache.work / f"now.{uuid.uuid4().hex}"
    path.touch()
    try:
        return path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)


def used_paths(cache: Cache, tuning: Tuning) -> set[Path]:
    """Return the real paths of the files that running workers use. Deletes marks that are no longer renewed."""
    now = volume_now(cache)
    used: set[Path] = set()
    root = cache.folder.resolve()
    for mark in cache.marks.glob("*.json") if cache.marks.is_dir() else ():
        with suppress(OSError, ValueError):  # it was just released, or another program wrote it
            if now - mark.stat().st_mtime > tuning.in_use_stale_s:
                mark.unlink()
            else:
                used.update(root / name for name in json.loads(mark.read_text(encoding="utf-8")))
    return used
