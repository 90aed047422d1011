"""Checks the disk space before a download and makes room by deleting the least recently used models.

It deletes only whole .gguf models and abandoned partial downloads, only in the cache that this worker writes, and never
a file that a running worker has marked as in use.
"""

from __future__ import annotations

import errno
import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from worker_gguf.errors import DownloadError
from worker_gguf.store import select
from worker_gguf.store.cache import Cache, is_inside
from worker_gguf.store.tuning import Tuning
from worker_gguf.store.usage_marks import used_paths, volume_now

__all__ = ["Kept", "disk_error", "kept_models", "make_room"]

logger = logging.getLogger(__name__)

GIB = 2**30


class Kept(Struct):
    """One model in a cache. `files` are its real files, and `names` the links to them."""

    title: str
    files: frozenset[Path]
    size_bytes: int
    used_at: float
    names: set[Path] = field(default_factory=set)


def make_room(cache: Cache, needed_bytes: int, most_bytes: int | None, tuning: Tuning, *, begun_bytes: int = 0) -> None:
    """Make sure that `needed_bytes` more fit on the disk, and that all models together fit into `most_bytes`.

    `begun_bytes` of the same model are already on the disk. Raises DownloadError.
    """
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        if most_bytes is not None and needed_bytes:
            _prune(cache, needed_bytes + begun_bytes, needed_bytes, most_bytes, tuning)
        free = shutil.disk_usage(cache.folder).free
    except OSError as error:
        raise disk_error(error, cache) from error
    if needed_bytes > free:
        raise DownloadError(
            f"{cache.folder} has {free / GIB:.1f} GiB free and the model needs {needed_bytes / GIB:.1f} GiB. "
            "Free space, use a larger volume or a smaller quant, or set MODEL_CACHE_DIR elsewhere."
        )


def disk_error(error: OSError, cache: Cache) -> DownloadError:
    """Return an error with a next step for an error of the disk. The fetched bytes stay for the next start."""
    where = error.filename or cache.folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"The disk of {cache.folder} is full. Everything fetched so far is kept: free space and start again, "
            "or set MODEL_CACHE_DIR elsewhere."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return DownloadError(f"{where} cannot be written. Set MODEL_CACHE_DIR to a writable folder.")
    return DownloadError(f"{where} failed ({error.strerror or error}). Check the volume, or set MODEL_CACHE_DIR.")


def _prune(cache: Cache, model_bytes: int, needed_bytes: int, most_bytes: int, tuning: Tuning) -> None:
    if model_bytes > most_bytes:
        raise DownloadError(
            f"The model needs {model_bytes / GIB:.1f} GiB and MODEL_CACHE_MAX_GB allows {most_bytes / GIB:.1f} GiB. "
            "Raise it, or use a smaller quant."
        )
    _sweep(cache, tuning)
    used = used_paths(cache, tuning)
    kept = kept_models(cache)
    kept_bytes = sum({file: _size(file) for model in kept for file in model.files}.values())
    for model in sorted(kept, key=lambda model: (model.used_at, model.title)):
        if kept_bytes + model_bytes <= most_bytes and needed_bytes <= shutil.disk_usage(cache.folder).free:
            return
        own = model.files - _shown_besides(cache, model)
        size_bytes = sum(_size(file) for file in own)
        if not model.files & used and _remove(cache, replace(model, files=own), tuning):
            kept_bytes -= size_bytes
            logger.info("model pruned", extra={"model": model.title, "size_bytes": size_bytes})
    if kept_bytes + model_bytes > most_bytes:
        raise DownloadError(
            f"{cache.folder} holds {kept_bytes / GIB:.1f} GiB of models in use, the model needs "
            f"{model_bytes / GIB:.1f} GiB more, and MODEL_CACHE_MAX_GB allows {most_bytes / GIB:.1f} GiB. Raise it."
        )


def kept_models(cache: Cache) -> list[Kept]:
    """Return the models in a cache. Several names for the same files, for example in two revisions, are one model."""
    found: dict[frozenset[Path], Kept] = {}
    for title, paths in _models(cache):
        files = frozenset(path.resolve() for path in paths)
        if not all(is_inside(file, cache.folder) for file in files):
            continue
        with suppress(FileNotFoundError):
            used_at = max(file.stat().st_atime for file in files)
            size_bytes = sum(file.stat().st_size for file in files)
            found.setdefault(files, Kept(title, files, size_bytes, used_at)).names.update(paths)
    return list(found.values())


def _models(cache: Cache) -> Iterator[tuple[str, list[Path]]]:
    for snapshot in cache.folder.glob("models--*/snapshots/*"):
        names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf") if path.is_file()]
        for model in select.group(names):
            yield f"{snapshot.parent.parent.name}/{model.title}", [snapshot / name for name in model.files]
    for path in cache.folder.glob("urls/*/*.gguf"):
        if path.is_file():
            yield path.name, [path]


def _shown_besides(cache: Cache, model: Kept) -> set[Path]:
    """Return the files of a model to which other names link, too, for example in another revision."""
    snapshots = {cache.folder / name.relative_to(cache.folder).parts[0] / "snapshots" for name in model.names}
    links = (path for folder in snapshots for path in folder.rglob("*") if path not in model.names)
    return {path.resolve() for path in links if not path.is_dir()}


def _remove(cache: Cache, model: Kept, tuning: Tuning) -> bool:
    """Move the files to another folder, check again that no worker uses them, and then delete them.

    Returns False if a worker uses them, after moving them back.
    """
    cache.bin.mkdir(parents=True, exist_ok=True)
    moved: list[tuple[Path, Path]] = []
    for file in model.files:
        aside = cache.bin / uuid.uuid4().hex
        with suppress(FileNotFoundError):
            file.rename(aside)
            moved.append((file, aside))
    if model.files & used_paths(cache, tuning):
        for file, aside in moved:
            aside.replace(file)
        return False
    for name in model.names:
        name.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            name.parent.rmdir()
    for _, aside in moved:
        aside.unlink(missing_ok=True)
    return True


def _sweep(cache: Cache, tuning: Tuning) -> None:
    """Delete old partial downloads, and files that a killed worker was deleting."""
    now = volume_now(cache)
    for folder, stale_s in ((cache.partials, tuning.partial_stale_s), (cache.bin, tuning.in_use_stale_s)):
        for path in folder.iterdir() if folder.is_dir() else ():
            with suppress(OSError):
                newest = max(inner.stat().st_ctime for inner in (path, *path.glob("*")))
                if now - newest > stale_s:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
