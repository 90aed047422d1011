"""Makes sure that a model is on disk: found where it lies, else fetched from the Hub into the cache."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from worker_gguf.errors import DownloadError, ModelNotFound
from worker_gguf.store import select
from worker_gguf.store.hub import Hub, Listing
from worker_gguf.store.ref import HubRef, ModelRef, UrlRef
from worker_gguf.store.resolve import LocalModel, locate

__all__ = ["Progress", "ensure", "write_ref"]

logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Hears how far a download is. May be called from another thread; `bytes_done` never passes `bytes_total`."""

    def __call__(self, bytes_done: int, bytes_total: int, /) -> None: ...


def ensure(
    ref: ModelRef,
    cache_dirs: Sequence[Path],
    token: str | None = None,
    progress: Progress | None = None,
    *,
    download_dir: Path | None = None,
    endpoint: str | None = None,
) -> LocalModel:
    """Return the model, whole and on disk.

    Looks in `cache_dirs` and `download_dir` first and asks the Hub nothing if it is there. Else fetches exactly the
    chosen files into `download_dir`, which is the last of `cache_dirs` unless given: earlier ones may be read-only.
    """
    target = download_dir or (cache_dirs[-1] if cache_dirs else None)
    searched = [*cache_dirs, *([target] if target and target not in cache_dirs else [])]
    if found := locate(ref, searched):
        return found
    if isinstance(ref, UrlRef):
        raise ModelNotFound(f"{ref} is on a plain web server, which is not fetched yet. Download it and give its path.")
    if not isinstance(ref, HubRef) or target is None:
        raise ModelNotFound(
            f"{ref} is not on this machine and there is no cache to fetch it into. Set MODEL_CACHE_DIR."
        )
    return _download(ref, target, Hub(token or None, endpoint), progress or (lambda _done, _total: None))


def write_ref(repo_folder: Path, revision: str, commit: str) -> None:
    """Note which commit a branch or tag is at, as the Hub's own cache does; whole or not at all."""
    path = repo_folder / "refs" / revision
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False, encoding="utf-8") as file:
        file.write(commit)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def _download(ref: HubRef, cache_dir: Path, hub: Hub, progress: Progress) -> LocalModel:
    listing = hub.listing(ref.repo, ref.revision)
    files = select.choose(listing.files, quant=ref.quant, file=ref.file, where=f"The repository {ref.repo}").files
    folder = cache_dir / f"models--{ref.repo.replace('/', '--')}"
    _check_room(folder, listing, files)
    counter = _Counter(sum(listing.files[name].size_bytes for name in files), progress)
    logger.info("download begins", extra={"repo": ref.repo, "files": len(files), "size_bytes": counter.total})
    paths: list[Path] = []
    for name in files:
        path = hub.fetch(ref.repo, name, listing.commit, cache_dir, counter.add)
        size = listing.files[name].size_bytes
        if path.stat().st_size != size:
            raise DownloadError(
                f"{path} has {path.stat().st_size} bytes and the Hub's file has {size}. Delete it and retry."
            )
        counter.file_done(size)
        paths.append(path)
    if ref.revision != listing.commit:
        # Only now: a ref never leads to a snapshot that is not whole.
        try:
            write_ref(folder, ref.revision or "main", listing.commit)
        except OSError as error:  # the model is here all the same; the next start asks the Hub once more
            logger.warning("ref not written", extra={"repo": ref.repo, "reason": str(error)})
    return LocalModel(tuple(paths), counter.total, ref.repo, listing.commit, "download")


def _check_room(folder: Path, listing: Listing, names: Sequence[str]) -> None:
    """Refuse before the first byte what the disk cannot hold."""
    needed = 0
    for name in names:
        file = listing.files[name]
        here = (folder / "snapshots" / listing.commit / name).exists()
        if not here and not (file.sha256 and (folder / "blobs" / file.sha256).exists()):
            needed += file.size_bytes
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DownloadError(f"{folder} cannot be written ({error.strerror}). Set MODEL_CACHE_DIR elsewhere.") from error
    if needed > free:
        raise DownloadError(
            f"{folder.parent} has {free / 2**30:.1f} GiB free and the model needs {needed / 2**30:.1f} GiB. "
            "Free space, use a larger volume or a smaller quant, or set MODEL_CACHE_DIR elsewhere."
        )


class _Counter:
    """Adds up the pieces of several files. A file that was there already counts when its turn comes."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.total = total
        self._progress = progress
        self._whole = 0
        self._piece = 0
        progress(0, total)

    def add(self, size_bytes: int) -> None:
        self._piece += size_bytes
        self._progress(min(self._whole + self._piece, self.total), self.total)

    def file_done(self, size_bytes: int) -> None:
        self._whole += size_bytes
        self._piece = 0
        self._progress(self._whole, self.total)
