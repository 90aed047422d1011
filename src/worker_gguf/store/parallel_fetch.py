"""Fetches the missing ranges of one file over several connections and computes its digest at the same time.

Independent of caches and leases: it calls `may_write` before each write to check that this worker may still write.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from worker_gguf.errors import DownloadError
from worker_gguf.store.partial import Partial
from worker_gguf.store.tuning import Tuning
from worker_gguf.store.web import Interrupted, WebFile

__all__ = ["Digest", "Hash", "LostLease", "ParallelFetch"]

logger = logging.getLogger(__name__)

_REPORT_S = 0.1
_HASH_BYTES = 4 * 2**20


class LostLease(Exception):
    """Another worker has taken over the download."""


class Hash(Protocol):
    """The methods of hashlib's objects that a download uses."""

    def update(self, content: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class Digest(Struct, frozen=True):
    """The expected digest of a file. `hexadecimal` is also the name of its blob in the Hub's cache."""

    algorithm: str
    """`sha256`, or `git` for files that are not in large file storage."""
    hexadecimal: str

    def begin(self, size_bytes: int) -> Hash:
        if self.algorithm == "git":
            return hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
        return hashlib.sha256()


class ParallelFetch:
    """Fetches one file. Call `run` once."""

    def __init__(
        self, web: WebFile, partial: Partial, digest: Digest | None, tuning: Tuning, may_write: Callable[[], bool]
    ) -> None:
        self._web = web
        self._partial = partial
        self._tuning = tuning
        self._may_write = may_write
        self._digest = digest
        self._hash = digest.begin(web.size_bytes) if digest else None
        self._todo = deque(partial.missing(tuning.piece_bytes))
        self._stop = threading.Event()
        self._grown = threading.Event()
        self._error: BaseException | None = None

    def run(self, report: Callable[[int], None]) -> bool:
        """Fetch all missing ranges and return whether the digest is right.

        `report` is called with the fetched bytes, in this thread, and can raise an error to stop the download. Also
        raises DownloadError, and LostLease if `may_write` returns False.
        """
        n_connections = min(self._tuning.n_connections, len(self._todo)) if self._web.has_ranges else 1
        jobs = [self._connection] * n_connections + ([self._hash_on] if self._hash else [])
        threading.Thread(target=self._guarded, args=(self._sync_on,), name="sync", daemon=True).start()
        threads = [threading.Thread(target=self._guarded, args=(job,), name="fetch", daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive() and not self._stop.is_set():
                    thread.join(_REPORT_S)
                    report(self._partial.bytes_done)
        finally:
            self._stop.set()
            self._grown.set()
        if self._error is not None:
            raise self._error
        if self._partial.missing(self._tuning.piece_bytes):
            raise DownloadError(f"{self._web.title} was not fetched completely. Start again.")
        return self._hash is None or self._digest is None or self._hash.hexdigest() == self._digest.hexadecimal

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - `run` raises it again
            self._error = self._error or error
            self._stop.set()

    # --- connections ----------------------------------------------------------------------------------------------

    def _connection(self) -> None:
        n_bad = 0
        while not self._stop.is_set():
            try:
                first, end = self._todo.popleft()
            except IndexError:
                return
            while first < end and not self._stop.is_set():
                before = first
                try:
                    first = self._bring(first, end)
                except _Broken as broken:
                    first = broken.at
                    n_bad = 0 if first - before >= self._tuning.least_bytes else n_bad + 1
                    self._pause(n_bad, broken.cause)

    def _pause(self, n_bad: int, cause: Interrupted) -> None:
        if n_bad >= self._tuning.n_attempts or (cause.wait_s or 0) > self._tuning.most_wait_s:
            raise cause.error
        wait_s = cause.wait_s or self._tuning.waits_s[min(max(n_bad - 1, 0), len(self._tuning.waits_s) - 1)]
        logger.warning("connection opened anew", extra={"file": self._web.title, "reason": str(cause)})
        self._stop.wait(wait_s)

    def _bring(self, first: int, end: int) -> int:
        """Fetch and write a range. Returns its end, or raises _Broken with the position at which it failed."""
        held = bytearray()
        most = self._tuning.write_bytes(self._web.size_bytes)
        window_at, window_bytes = time.monotonic(), 0
        try:
            for chunk in self._web.read(first, end, self._tuning.stall_s):
                held += chunk
                window_bytes += len(chunk)
                if len(held) >= most or self._stop.is_set():
                    first, held = self._write(first, held), bytearray()
                if self._stop.is_set():
                    return first
                if (now := time.monotonic()) - window_at > self._tuning.stall_s:
                    if window_bytes < self._tuning.least_bytes:
                        raise Interrupted(DownloadError(f"{self._web.title} arrives too slowly. Try again later."))
                    window_at, window_bytes = now, 0
        except Interrupted as cause:
            raise _Broken(self._write(first, held), cause) from cause
        return self._write(first, held)

    def _write(self, at: int, content: bytearray) -> int:
        if not self._may_write():
            raise LostLease
        if content:
            self._partial.write(at, content)
            self._grown.set()
        return at + len(content)

    def _sync_on(self) -> None:
        """Flush the fetched bytes to disk at intervals, because a machine that fails loses unwritten bytes."""
        while not self._stop.wait(self._tuning.sync_s):
            self._partial.sync()

    # --- digest ---------------------------------------------------------------------------------------------------

    def _hash_on(self) -> None:
        """Hash the file while it grows. Its bytes were just written, so they are still in the page cache."""
        assert self._hash is not None
        at = 0
        while at < self._web.size_bytes and not self._stop.is_set():
            self._grown.clear()
            until = self._partial.whole_to
            if at == until:
                self._grown.wait(1.0)
                continue
            content = self._partial.read(at, min(_HASH_BYTES, until - at))
            if not content:
                raise DownloadError(f"{self._web.title} became shorter while it was fetched. Start again.")
            self._hash.update(content)
            at += len(content)


class _Broken(Exception):
    """A range could be fetched only up to `at`."""

    def __init__(self, at: int, cause: Interrupted) -> None:
        super().__init__(str(cause))
        self.at = at
        self.cause = cause
