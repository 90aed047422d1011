"""Finds a model on disk, or downloads it into the cache, once for all workers that share the cache.

1. Search all places. If the model is found, no request is made.
2. List the repository, choose the files, check the free disk space.
3. For each file: take its lease, or wait for the worker that has it. Fetch the file into a separate folder, continuing
an earlier partial download, verify its size and digest, and rename it to its final name.
4. Link the files into their snapshot, and write the ref when all of them are there.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from worker_gguf.errors import DownloadError, ModelInvalid, ModelNotFound
from worker_gguf.store import select
from worker_gguf.store.cache import Cache, write_ref
from worker_gguf.store.hub import Hub, Listing
from worker_gguf.store.joined import JoinedDigest, JoinedFile
from worker_gguf.store.lease import Lease, bytes_said
from worker_gguf.store.parallel_fetch import Digest, LostLease, ParallelFetch
from worker_gguf.store.partial import Partial, folders_of, left_behind, noted_bytes
from worker_gguf.store.prune import disk_error, make_room
from worker_gguf.store.ref import HubRef, ModelRef, UrlRef
from worker_gguf.store.resolve import LocalModel, locate
from worker_gguf.store.select import Kind, Prefer
from worker_gguf.store.tuning import Tuning
from worker_gguf.store.usage_marks import touch, volume_now
from worker_gguf.store.web import Interrupted, WebFile, open_url

__all__ = ["Progress", "ensure", "write_ref"]

logger = logging.getLogger(__name__)

_LOG_EVERY_S = 10.0


class Progress(Protocol):
    """A callback for the progress of a download by this worker or by another one. It can stop it by raising an error.

    `bytes_done` is at most `bytes_total`. It decreases if a file had a wrong digest and is fetched again.
    """

    def __call__(self, bytes_done: int, bytes_total: int, /) -> None: ...


def ensure(
    ref: ModelRef,
    cache_dirs: Sequence[Path],
    token: str | None = None,
    progress: Progress | None = None,
    *,
    download_dir: Path | None = None,
    baked_dir: Path | None = None,
    endpoint: str | None = None,
    most_bytes: int | None = None,
    kind: Kind = "model",
    prefer: Prefer | None = None,
    tuning: Tuning | None = None,
) -> LocalModel:
    """Find a model on disk or download it.

    Searches `baked_dir`, `cache_dirs` and `download_dir` first. If the model is not there, its files are fetched into
    `download_dir`, by default the last of `cache_dirs`, because earlier ones may be read-only. Models there may take at
    most `most_bytes`. `prefer` chooses a quantisation if the reference has none. Raises ModelNotFound or DownloadError.
    """
    target = download_dir or (cache_dirs[-1] if cache_dirs else None)
    searched = [*cache_dirs, *([target] if target and target not in cache_dirs else [])]
    found = locate(ref, searched, baked_dir=baked_dir, kind=kind, prefer=prefer)
    return found or download_model(
        ref, target, token, progress, endpoint=endpoint, most_bytes=most_bytes, kind=kind, prefer=prefer, tuning=tuning
    )


def download_model(
    ref: ModelRef,
    folder: Path | None,
    token: str | None = None,
    progress: Progress | None = None,
    *,
    endpoint: str | None = None,
    most_bytes: int | None = None,
    kind: Kind = "model",
    prefer: Prefer | None = None,
    tuning: Tuning | None = None,
) -> LocalModel:
    """Download a model that `locate` did not find into the cache at `folder`. Otherwise like `ensure`."""
    if not isinstance(ref, HubRef | UrlRef) or folder is None:
        raise ModelNotFound(f"{ref} is not on this machine and no cache is set to fetch it into. Set MODEL_CACHE_DIR.")
    work = _Download(Cache(folder), most_bytes, progress or (lambda _done, _total: None), tuning or Tuning())
    try:
        if isinstance(ref, UrlRef):
            return work.from_url(ref)
        return work.from_hub(ref, Hub(token or None, endpoint), kind, prefer)
    except OSError as error:
        raise disk_error(error, work.cache) from error


class _Wanted(Struct, frozen=True):
    """One file to fetch. It appears at `final` only when it is complete."""

    key: str
    final: Path
    seen_as: Path
    """Its path in a snapshot. This is the file itself if links are not supported."""
    web: WebFile
    digest: Digest | None

    @property
    def is_here(self) -> bool:
        return any(path.is_file() and path.stat().st_size == self.web.size_bytes for path in (self.final, self.seen_as))


class _Download:
    def __init__(self, cache: Cache, most_bytes: int | None, progress: Progress, tuning: Tuning) -> None:
        self.cache = cache
        self._most_bytes = most_bytes
        self._progress = progress
        self._tuning = tuning

    def from_hub(self, ref: HubRef, hub: Hub, kind: Kind, prefer: Prefer | None) -> LocalModel:
        listing = hub.listing(ref.repo, ref.revision)
        sizes = {name: file.size_bytes for name, file in listing.files.items()}
        where = f"The repository {ref.repo}"
        chosen = select.choose(sizes, quant=ref.quant, file=ref.file, kind=kind, prefer=prefer, where=where)
        pieces = [self._blob(ref.repo, listing, name, hub) for name in chosen.files]
        wanted = [self._joined(ref.repo, listing, chosen.joined, pieces)] if chosen.joined else pieces
        self.cache.check_inside(self.cache.repo(ref.repo) / "blobs")
        self._fetch_all(wanted)
        paths = [
            self.cache.link(ref.repo, listing.commit, name, file.final)
            for name, file in zip((chosen.joined,) if chosen.joined else chosen.files, wanted, strict=True)
        ]
        if ref.revision != listing.commit:
            # This is the last step, so that a ref never points to an incomplete snapshot.
            try:
                write_ref(self.cache.repo(ref.repo), ref.revision or "main", listing.commit)
            except OSError as error:  # the model is on disk, but the next start will list the repository again
                logger.warning("ref not written", extra={"repo": ref.repo, "reason": str(error)})
        return LocalModel(tuple(paths), chosen.size_bytes, ref.repo, listing.commit, "download")

    def from_url(self, ref: UrlRef) -> LocalModel:
        final = self.cache.url(ref.url)
        self.cache.check_inside(final)
        web = self._open_url(ref.url)
        self._fetch_all([_Wanted(f"url-{final.parent.name}", final, final, web, None)])
        return LocalModel((final,), web.size_bytes, None, None, "download")

    def _blob(self, repo: str, listing: Listing, name: str, hub: Hub) -> _Wanted:
        file = listing.files[name]
        if file.digest is None:
            raise DownloadError(f"The Hub gives no digest of {name} in {repo}, so it cannot be verified.")
        key = file.digest.hexadecimal
        web = hub.open(repo, name, listing.commit, file.size_bytes)
        shown = self.cache.snapshot(repo, listing.commit) / name
        return _Wanted(key, self.cache.blob(repo, key), shown, web, file.digest)

    def _joined(self, repo: str, listing: Listing, name: str, pieces: Sequence[_Wanted]) -> _Wanted:
        """Return the file that byte pieces make. Its key has a prefix, because it is not the SHA-256 of the file."""
        digest = JoinedDigest.from_pieces((piece.web.size_bytes, piece.digest) for piece in pieces if piece.digest)
        key = f"joined-{digest.hexadecimal}"
        web = JoinedFile(name, [piece.web for piece in pieces])
        return _Wanted(key, self.cache.blob(repo, key), self.cache.snapshot(repo, listing.commit) / name, web, digest)

    def _open_url(self, url: str) -> WebFile:
        for wait_s in (*self._tuning.waits_s, None):
            try:
                return open_url(url, self._tuning.stall_s)
            except Interrupted as cause:
                wait_s = None if wait_s is None else max(wait_s, cause.wait_s or 0)
                if wait_s is None or wait_s > self._tuning.most_wait_s:
                    raise cause.error from cause
                time.sleep(wait_s)
        raise AssertionError("the last wait is None")

    # --- all files, one after the other -----------------------------------------------------------------------------

    def _fetch_all(self, wanted: Sequence[_Wanted]) -> None:
        missing = [file for file in wanted if not file.is_here]
        partial_bytes = sum(self._left_behind(file) for file in missing)
        needed = sum(file.web.size_bytes for file in missing) - partial_bytes
        make_room(self.cache, needed, self._most_bytes, self._tuning, begun_bytes=partial_bytes)
        counter = _Counter(sum(file.web.size_bytes for file in wanted), self._progress)
        if missing:
            logger.info("download begins", extra={"files": len(missing), "size_bytes": needed})
        for file in wanted:
            self._bring(file, counter.report)
            self._tidy(file)
            touch(file.final, volume_now(self.cache))
            counter.file_done(file.web.size_bytes)

    def _left_behind(self, file: _Wanted) -> int:
        """Return the number of bytes of the file that are already on disk.

        If another worker is writing the file, the number comes from its lease: reading a journal to which another
        machine appends makes MooseFS wait and retry, more slowly each time.
        """
        published = bytes_said(self.cache.lease(file.key))
        if published is not None:
            return min(published, file.web.size_bytes)
        folders = left_behind(self.cache.partials, file.key)
        return max((noted_bytes(folder) for folder in folders), default=0)

    # --- one file: lead or follow -----------------------------------------------------------------------------------

    def _bring(self, file: _Wanted, report: Callable[[int], None]) -> None:
        lease = Lease(self.cache.lease(file.key), self._tuning)
        is_logged = False
        while not file.is_here:
            if not lease.try_take():
                if not is_logged:
                    logger.info("another worker downloads, this one waits", extra={"file": file.web.title})
                is_logged = True
                report(lease.bytes_done)
                threading.Event().wait(self._tuning.poll_s)
                continue
            try:
                with lease:
                    if not file.is_here:
                        self._fetch(file, lease, report)
            except LostLease:
                logger.warning("download left to another worker", extra={"file": file.web.title})
            lease = Lease(self.cache.lease(file.key), self._tuning)

    def _fetch(self, file: _Wanted, lease: Lease, report: Callable[[int], None]) -> None:
        """Fetch a file. If its digest is wrong, delete it and fetch it once more."""

        def note(bytes_done: int) -> None:
            lease.bytes_done = bytes_done
            report(bytes_done)

        version = file.digest.hexadecimal if file.digest else file.web.etag or "-"
        for is_last in (False, True):
            partial = Partial.take_over(
                self.cache.partials, file.key, lease.holder, file.web.size_bytes, version.replace(" ", "")
            )
            try:
                fetch = ParallelFetch(file.web, partial, file.digest, self._tuning, lambda: lease.is_sure)
                if fetch.run(note):
                    self._publish(partial, file, lease)
                    return
                partial.discard()
            finally:
                partial.close()
            if not is_last:
                logger.warning("wrong digest: fetched again", extra={"file": file.web.title})
        raise DownloadError(
            f"{file.web.title} had a wrong SHA-256 twice and was deleted. Check the network and any proxy, and start "
            "again."
        )

    def _publish(self, partial: Partial, file: _Wanted, lease: Lease) -> None:
        if file.digest is None and partial.read(0, 4) != b"GGUF":
            partial.discard()
            raise ModelInvalid(f"{file.web.title} is not a GGUF file. Check the URL: it may be that of a web page.")
        try:
            partial.publish(file.final)
        except FileNotFoundError:  # another worker took the folder over, or removed it because the file is complete
            if lease.is_sure and not file.is_here:
                raise
            raise LostLease from None

    def _tidy(self, file: _Wanted) -> None:
        """Remove the partial downloads and leases of a complete file that killed workers have left."""
        for left in folders_of(self.cache.partials, file.key):
            shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            for left in self.cache.lease(file.key).parent.glob(f"{file.key}*"):
                left.unlink(missing_ok=True)


class _Counter:
    """Adds up the progress of several files. A file that is already on disk is counted when its turn comes."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.total = total
        self._progress = progress
        self._whole = 0
        self._logged_at = self._started_at = time.monotonic()
        progress(0, total)

    def report(self, bytes_done: int) -> None:
        done = min(self._whole + bytes_done, self.total)
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            seconds = round(now - self._started_at)
            logger.info("downloading", extra={"bytes": done, "of": self.total, "seconds": seconds})
        self._progress(done, self.total)

    def file_done(self, size_bytes: int) -> None:
        self._whole += size_bytes
        self._progress(self._whole, self.total)
