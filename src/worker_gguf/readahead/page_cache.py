"""Reads a piece of a file into the page cache without copying it to other memory.

First the whole piece is announced to the kernel, so that the volume answers all its requests in parallel. Then the
piece is sent to /dev/null, which waits until it has arrived, reports errors and copies nothing. Reading it into a
buffer would take three times as much processor time, which a cold start needs for other work.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["BUFFER_BYTES", "PageCache"]

BUFFER_BYTES: Final = 256 << 10
"""The buffer of a read on a file system that cannot send to /dev/null."""
_LEAST_STEP: Final = 128 << 10


class PageCache:
    """Reads files into the page cache.

    `bring` can be called from several threads. Call `close` when no thread calls `bring` any more.
    """

    def __init__(self) -> None:
        self._null: int | None = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._can_send = True
        self._steps: dict[int, int] = {}

    def bring(self, fd: int, offset: int, size: int) -> int:
        """Read at most `size` bytes from `offset`. Returns their number, which is 0 at the end of the file.

        Raises OSError.
        """
        self._announce(fd, offset, size)
        if self._can_send and self._null is not None:
            try:
                return os.sendfile(self._null, fd, offset, size)
            except OSError:  # this file system does not support it; if the file has an error, the read below raises it
                self._can_send = False
        return _read(fd, offset, size)

    def close(self) -> None:
        null, self._null = self._null, None
        if null is not None:
            os.close(null)

    def _announce(self, fd: int, offset: int, size: int) -> None:
        step = self._steps.get(fd) or self._steps.setdefault(fd, _step_bytes(fd))
        for at in range(offset, offset + size, step):
            os.posix_fadvise(fd, at, min(step, offset + size - at), os.POSIX_FADV_WILLNEED)


def _step_bytes(fd: int) -> int:
    """Return the bytes that the kernel reads for one announcement. It ignores the rest of a larger one.

    The limit is the device's read-ahead, which is twice as large for a file that was announced as sequential.
    """
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    device = os.fstat(fd).st_dev
    name = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        return max(_LEAST_STEP, 2 * int(name.read_text()) << 10)
    except (OSError, ValueError):
        return _LEAST_STEP


def _read(fd: int, offset: int, size: int) -> int:
    buffer = memoryview(bytearray(min(size, BUFFER_BYTES)))
    whole, rest = divmod(size, len(buffer))
    return os.preadv(fd, [buffer] * whole + ([buffer[:rest]] if rest else []), offset)
