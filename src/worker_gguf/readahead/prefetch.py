"""Reads the files of a model into the page cache ahead of the load.

Each block is requested once, in file order, by as many readers as `Pace` finds worthwhile. The pages stay in the page
cache (`page_cache.py`) and use no other memory. A failure here never fails the start, because the load that follows has
the same failure and reports it better.

A FUSE mount may drop a file's cached pages on every open. So the descriptors stay open until `close`, and a load should
use them (`file`, `fd`). A load that opens the files by name calls `opened` afterwards: on a mount that drops pages, the
readers wait for that call.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeAlias

from worker_gguf.readahead import child
from worker_gguf.readahead.pace import Pace
from worker_gguf.readahead.page_cache import PageCache

__all__ = ["BLOCK_BYTES", "Block", "Prefetch", "Read", "drops_on_open"]

logger = logging.getLogger(__name__)

BLOCK_BYTES: Final = 2 << 20
_PAGE: Final = mmap.PAGESIZE
_JOIN_TIMEOUT_S: Final = 5.0

Read: TypeAlias = Callable[[int, int, int], int]
"""`PageCache.bring`: descriptor, offset, size; how many bytes were read."""


class Block(NamedTuple):
    fd: int
    offset: int
    size: int


class Prefetch:
    """The prefetch of a model. Its files are open until `close`. Methods can be called from any thread."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        n_readers: int | None = None,
        limit_bytes: int | None = None,
        skip_cached: bool = True,
        read: Read | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Open the files. Raises OSError.

        `n_readers` fixes the number of readers. At most `limit_bytes` are read.
        """
        self.paths = tuple(paths)
        self.bytes_done = 0
        """Read, or found in the page cache."""
        self.bytes_cached = 0
        """Bytes that were in the page cache already."""
        self.most_readers = 0
        self.error: OSError | None = None
        self.began_s = clock()
        """By the clock, `time.perf_counter` if none is given; so is `ended_s`."""
        self.ended_s: float | None = None
        self._clock = clock
        self._fds: list[int] = []
        try:
            self._fds += (os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in self.paths)
            sizes = [os.fstat(fd).st_size for fd in self._fds]
        except OSError:
            self._close_files()
            raise
        self.bytes_total = min(sum(sizes), sum(sizes) if limit_bytes is None else max(0, limit_bytes))
        self._page_cache = PageCache()
        self._read = read or self._page_cache.bring
        self._blocks = _blocks(self._fds, sizes, self.bytes_total)
        self._pace = Pace(self.began_s, first=n_readers, most=n_readers) if n_readers else Pace(self.began_s)
        self._is_paced = n_readers is None
        self._can_probe = skip_cached
        self._lock = threading.Lock()
        self._readers: dict[int, threading.Thread] = {}
        self._stopping = threading.Event()
        self._gate = threading.Event()
        self._finished = threading.Event()
        self._child: child.Child | None = None

    def start(self, *, in_child: bool = False) -> Prefetch:
        """Begin to read in the background.

        With `in_child`, a child process reads a model of one file, which is possible only while this process has no
        other thread.
        """
        if in_child and len(self._fds) == 1:
            self._child = child.fork(self._begin, self._finished.wait, self._report)
        threading.Thread(target=self._follow if self._child else self._begin, name="prefetch", daemon=True).start()
        return self

    def file(self, index: int = 0) -> BinaryIO:
        """Return one of the files through its open descriptor. Nothing is opened, so no pages are dropped."""
        return open(self._fds[index], "rb", buffering=0, closefd=False)

    def opened(self) -> None:
        """Note that the load has opened all files that it opens by name."""
        self._gate.set()

    def cancel(self) -> None:
        self._stopping.set()
        self._gate.set()
        if self._child is not None:
            self._child.stop()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return whether the readers have ended, for any reason."""
        return self._finished.wait(timeout_s)

    @property
    def readers(self) -> int:
        """The number of readers that run now."""
        return len(self._readers)

    @property
    def fd(self) -> int | None:
        """The descriptor of a model of one file, for a load through an open descriptor."""
        return self._fds[0] if len(self._fds) == 1 else None

    def close(self, timeout_s: float = _JOIN_TIMEOUT_S) -> None:
        """Stop the readers and close the files. If a reader hangs on a dead volume, they stay open, because the
        reader might otherwise use a number that has been given to another file.
        """
        self.cancel()
        if self._finished.wait(timeout_s):
            self._close_files()
            self._page_cache.close()
        else:
            logger.warning("the volume does not answer, its files stay open")

    def _close_files(self) -> None:
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)

    # --- a child's readers ----------------------------------------------------------------------------------------

    def _report(self) -> child.Report:
        """Report the progress, in the child."""
        failed = self.error.errno or errno.EIO if self.error else 0
        return child.Report(self.bytes_done, self.bytes_cached, self.most_readers, failed, self.ended_s or 0.0)

    def _follow(self) -> None:
        """Copy the reports of the child, in the parent."""
        assert self._child is not None
        for report in self._child.reports():
            self.bytes_done, self.bytes_cached, self.most_readers = report[:3]
            self.ended_s = report.ended_s or None
            if report.errno and self.error is None:
                self._fail(OSError(report.errno, os.strerror(report.errno)))
        self._child.stop()
        self.ended_s = self.ended_s or self._clock()
        self._finished.set()

    # --- the readers' side ----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        try:
            if len(self._fds) > 1 and drops_on_open(self.paths[0], self._fds[0]):
                self._gate.wait()
        except OSError as error:
            self._fail(error)
        with self._lock:
            self._call_readers()
            self._end_if_idle()

    def _call_readers(self) -> None:
        """Start missing readers. Call it under the lock."""
        wanted = self._pace.readers if not self._stopping.is_set() else 0
        for number in range(wanted):
            if number not in self._readers:
                reader = threading.Thread(target=self._run, args=(number,), name=f"prefetch-{number}", daemon=True)
                self._readers[number] = reader
                reader.start()
        self.most_readers = max(self.most_readers, len(self._readers))

    def _run(self, number: int) -> None:
        while (block := self._next(number)) is not None:
            try:
                is_cached = self._is_cached(block)
                n_bytes = block.size if is_cached else self._fetch(block)
            except OSError as error:
                self._fail(error)
                continue
            with self._lock:
                self.bytes_done += n_bytes
                if is_cached:
                    self.bytes_cached += n_bytes
                elif self._is_paced:
                    self._pace.done(n_bytes, self._clock())
                    self._call_readers()

    def _next(self, number: int) -> Block | None:
        """Return the next block for this reader, or None if it should end."""
        with self._lock:
            block = None
            if number < self._pace.readers and not self._stopping.is_set():
                block = next(self._blocks, None)
            if block is None:
                del self._readers[number]
                self._end_if_idle()
            return block

    def _end_if_idle(self) -> None:
        if not self._readers and not self._finished.is_set():
            self.ended_s = self._clock()
            self._finished.set()

    def _fetch(self, block: Block) -> int:
        """Read the block into the page cache. Returns less than its size if the file ends before."""
        done = 0
        while done < block.size:
            n_bytes = self._read(block.fd, block.offset + done, block.size - done)
            if not n_bytes:
                self._stopping.set()  # the file has shrunk, so the following blocks are gone as well
                break
            done += n_bytes
        return done

    def _is_cached(self, block: Block) -> bool:
        """Return whether the first, middle and last page of the block are cached.

        Returns False if the file system cannot tell (FUSE): reading cached pages costs a copy and no request to the
        volume.
        """
        if not self._can_probe:
            return False
        page = memoryview(bytearray(_PAGE))
        last = block.offset + block.size - 1
        try:
            for at in (block.offset, block.offset + block.size // 2, last):
                os.preadv(block.fd, [page], at // _PAGE * _PAGE, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            self._can_probe = False
            return False
        return True

    def _fail(self, error: OSError) -> None:
        with self._lock:
            is_first, self.error = self.error is None, self.error or error
        self.cancel()
        if is_first:
            logger.warning("prefetch stopped, the load reads for itself", extra={"reason": str(error)})


def drops_on_open(path: Path, fd: int) -> bool:
    """Return whether opening the file again drops its cached pages.

    The kernel does not report this directly. A cached page is mapped without a major fault, which is exact, unlike a
    measurement of time.
    """
    if os.fstat(fd).st_size == 0:
        return False
    os.pread(fd, 1, 0)
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    with mmap.mmap(fd, _PAGE if os.fstat(fd).st_size >= _PAGE else 0, prot=mmap.PROT_READ) as mapped:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
        mapped[0]
        return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt > before


def _blocks(fds: Sequence[int], sizes: Sequence[int], limit_bytes: int) -> Iterator[Block]:
    left = limit_bytes
    for fd, file_size in zip(list(fds), sizes, strict=True):
        for offset in range(0, file_size, BLOCK_BYTES):
            size = min(BLOCK_BYTES, file_size - offset, left)
            if not size:
                return
            left -= size
            yield Block(fd, offset, size)
