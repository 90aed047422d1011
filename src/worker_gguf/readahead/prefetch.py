"""Reads the files of a model into the page cache before and during the load. Independent of llama.cpp.

Every block is requested once, in file order, by as many readers as `Pace` chooses. The pages stay in the page cache
(`page_cache.py`) and use no other memory. An error here never makes the start fail, because the load will have the same
error and a better message.

A FUSE mount may drop the cached pages of a file whenever it is opened. So the descriptors stay open until `close`, and
a load should use them (`file`, `fd`). A load that opens the files by name must call `opened` afterwards: on a mount
that drops pages, the readers wait for that call.
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
"""A function such as `PageCache.bring`: takes a descriptor, an offset and a size, returns the number of bytes read."""


class Block(NamedTuple):
    """A piece of an open file."""

    fd: int
    offset: int
    size: int


class Prefetch:
    """A prefetch of files, which are open until `close`. Methods can be called from any thread."""

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
        """Bytes that were read or were already in the page cache."""
        self.bytes_cached = 0
        """Bytes that were already in the page cache."""
        self.most_readers = 0
        self.error: OSError | None = None
        self.began_s = clock()
        """The start by `clock`; `ended_s` is the end by the same clock, or None while it runs."""
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
        """Start to read in the background.

        With `in_child`, a child process reads, if there is only one file. This process must have no other thread then.
        """
        if in_child and len(self._fds) == 1:
            self._child = child.fork(self._begin, self._finished.wait, self._report)
        threading.Thread(target=self._follow if self._child else self._begin, name="prefetch", daemon=True).start()
        return self

    def file(self, index: int = 0) -> BinaryIO:
        """Return one of the files with its open descriptor, so that it is not opened again and keeps its pages."""
        return open(self._fds[index], "rb", buffering=0, closefd=False)

    def opened(self) -> None:
        """Note that the load has opened all files that it will open by name."""
        self._gate.set()

    def cancel(self) -> None:
        """Tell the readers to stop."""
        self._stopping.set()
        self._gate.set()
        if self._child is not None:
            self._child.stop()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait at most `timeout_s` and return whether the readers have ended, for any reason."""
        return self._finished.wait(timeout_s)

    @property
    def readers(self) -> int:
        """The number of running readers."""
        return len(self._readers)

    @property
    def fd(self) -> int | None:
        """The open descriptor if there is only one file, else None."""
        return self._fds[0] if len(self._fds) == 1 else None

    def close(self, timeout_s: float = _JOIN_TIMEOUT_S) -> None:
        """Stop the readers and close the files.

        If a reader hangs because the volume does not answer, the files stay open, so that their descriptors are not
        reused.
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
        """Return the progress. Called in the child."""
        failed = self.error.errno or errno.EIO if self.error else 0
        return child.Report(self.bytes_done, self.bytes_cached, self.most_readers, failed, self.ended_s or 0.0)

    def _follow(self) -> None:
        """Copy the child's reports into this object. Runs in the parent."""
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
        """Start the missing readers. Call it while holding the lock."""
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
        """Return the next block for a reader, or None if the reader must end."""
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
        """Read a block and return the number of bytes, which is smaller than its size if the file ends earlier."""
        done = 0
        while done < block.size:
            n_bytes = self._read(block.fd, block.offset + done, block.size - done)
            if not n_bytes:
                self._stopping.set()  # the file was truncated, so the following blocks do not exist either
                break
            done += n_bytes
        return done

    def _is_cached(self, block: Block) -> bool:
        """Return whether the first, middle and last page of a block are cached.

        Returns False if the file system does not support the test (FUSE). Then a cached block is sent again, which
        sends no request to the volume.
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

    The kernel has no direct test for this. A mapped page that is cached causes no major fault, which is more reliable
    than a measurement of time. The last page is used, because other threads read the header meanwhile. Raises OSError.
    """
    size = os.fstat(fd).st_size
    if size == 0:
        return False
    last = (size - 1) // _PAGE * _PAGE
    os.pread(fd, 1, last)
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    with mmap.mmap(fd, size - last, prot=mmap.PROT_READ, offset=last) as mapped:
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
