"""An incomplete file: a folder with its bytes so far and a journal of the complete ranges.

The folder is named after its owner. A later owner takes over the work by renaming the folder, which only one can do.
Without a power cut, all ranges in the journal are on disk. After one, the digest of the whole file decides.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["Partial", "merged"]

PATIENCE_S = 30.0
"""A read of a busy volume takes seconds; a read of a file that a dead machine has locked takes minutes."""
_DATA = "data"
_JOURNAL = "ranges"


class Partial:
    """`write` and `note` can be called from several threads, for ranges that do not overlap."""

    def __init__(self, folder: Path, size_bytes: int, version: str) -> None:
        """Open the work in the folder, or begin it. Ranges of another `version` are deleted."""
        self.folder = folder
        self.size_bytes = size_bytes
        self._lock = threading.Lock()
        head = f"{size_bytes} {version}\n".encode()
        folder.mkdir(parents=True, exist_ok=True)
        self._whole = _read_journal(folder / _JOURNAL, head, size_bytes) if (folder / _DATA).is_file() else None
        is_new = self._whole is None
        self._n_busy = 0
        self._is_closed = False
        self._journal = (folder / _JOURNAL).open("wb" if is_new else "ab", buffering=0)
        self._data = (folder / _DATA).open("w+b" if is_new else "r+b", buffering=0)
        if self._whole is None:
            self._whole = []
            self._journal.write(head)
            self._data.truncate(size_bytes)

    @classmethod
    def take_over(cls, parent: Path, key: str, owner: str, size_bytes: int, version: str) -> Partial:
        """Continue the largest work on `key` of an earlier owner, or begin a new one."""
        folder = parent / f"{key}.{owner}"
        for left in left_behind(parent, key):
            try:
                if folder.exists():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.rename(folder)
            except FileNotFoundError:
                continue
        return cls(folder, size_bytes, version)

    @property
    def data_path(self) -> Path:
        return self.folder / _DATA

    @property
    def bytes_done(self) -> int:
        with self._lock:
            return sum(end - first for first, end in self._whole or ())

    @property
    def whole_to(self) -> int:
        """The number of complete bytes from the beginning of the file."""
        with self._lock:
            return self._whole[0][1] if self._whole and self._whole[0][0] == 0 else 0

    def missing(self, most_bytes: int) -> list[tuple[int, int]]:
        """Return the missing ranges in order, none longer than `most_bytes`."""
        with self._lock:
            whole = list(self._whole or ())
        ends = [0, *(end for _, end in whole)]
        firsts = [*(first for first, _ in whole), self.size_bytes]
        return [
            (at, min(at + most_bytes, until))
            for begin, until in zip(ends, firsts, strict=True)
            for at in range(begin, until, most_bytes)
        ]

    def write(self, at: int, content: bytes | bytearray) -> None:
        """Write bytes to their place in the file and add their range to the journal."""
        view = memoryview(content)
        end = at + len(view)
        with self._open_data() as number:
            while view:
                written = os.pwrite(number, view, end - len(view))
                view = view[written:]
            with self._lock:
                self._journal.write(_line(at, end))
                self._whole = merged([*(self._whole or ()), (at, end)])

    def read(self, at: int, n_bytes: int) -> bytes:
        with self._open_data() as number:
            return os.pread(number, n_bytes, at)

    def sync(self) -> None:
        """Write the downloaded bytes to disk, and then their ranges."""
        with suppress(ValueError), self._open_data() as number:
            os.fsync(number)
            os.fsync(self._journal.fileno())

    @contextmanager
    def _open_data(self) -> Iterator[int]:
        """Return the descriptor of the data file, which stays open while it is used.

        Otherwise a thread that is left behind could write to a number that has been given to another file.
        """
        with self._lock:
            if self._is_closed:
                raise ValueError(f"{self.folder} is closed")
            self._n_busy += 1
        try:
            yield self._data.fileno()
        finally:
            with self._lock:
                self._n_busy -= 1
                self._close_if_idle()

    def close(self) -> None:
        """Accept no more ranges. A write in progress is finished."""
        with self._lock:
            self._is_closed = True
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._is_closed and not self._n_busy:
            for file in (self._data, self._journal):
                with suppress(OSError):  # the volume is gone; what had to be on disk was synced earlier
                    file.close()

    def publish(self, path: Path) -> None:
        """Give the file its final name, after its bytes are on disk."""
        os.fchmod(self._data.fileno(), 0o644)
        os.fsync(self._data.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        self.data_path.replace(path)
        sync_folder(path.parent)
        self.discard()

    def discard(self) -> None:
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def folders_of(parent: Path, key: str) -> list[Path]:
    """Return the folders with work on `key`, whatever they contain."""
    try:
        return [path for path in parent.iterdir() if path.name.startswith(f"{key}.")]
    except FileNotFoundError:
        return []


def left_behind(parent: Path, key: str, patience_s: float = PATIENCE_S) -> list[Path]:
    """Return the folders with work on `key` that can be continued, the largest first.

    A file that a dead machine was writing can be unreadable for minutes (MooseFS keeps its chunks locked). A read that
    does not return within `patience_s` is abandoned, and its folder is left out.
    """
    noted: dict[Path, int] = {}

    def look(folder: Path) -> None:
        noted[folder] = noted_bytes(folder)

    found = folders_of(parent, key)
    threads = [threading.Thread(target=look, args=(folder,), name="look", daemon=True) for folder in found]
    for thread in threads:
        thread.start()
    until = time.monotonic() + patience_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    here = dict(noted)
    return sorted(here, key=lambda path: (-here[path], path.name))


def noted_bytes(folder: Path) -> int:
    """Return the number of complete bytes in a folder according to its journal, or 0 if the last of them cannot be
    read.
    """
    try:
        head = (folder / _JOURNAL).read_bytes().partition(b"\n")[0] + b"\n"
        ranges = _read_journal(folder / _JOURNAL, head, int(head.split()[0])) or ()
        with (folder / _DATA).open("rb", buffering=0) as data:
            is_here = all(os.pread(data.fileno(), 1, end - 1) for _, end in ranges)
    except (OSError, ValueError, IndexError):
        return 0
    return sum(end - first for first, end in ranges) if is_here else 0


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges with those joined that touch or overlap."""
    joined: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((first, end))
    return joined


def sync_folder(path: Path) -> None:
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError:  # some network mounts cannot sync a folder
        pass
    finally:
        os.close(number)


def _line(first: int, end: int) -> bytes:
    text = f"{first} {end}".encode()
    return text + f" {zlib.crc32(text):08x}\n".encode()


def _read_journal(path: Path, head: bytes, size_bytes: int) -> list[tuple[int, int]] | None:
    """Return the ranges in the journal, or None if it belongs to another file. An incomplete line is ignored."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if not content.startswith(head):
        return None
    return merged([(first, end) for first, end in _ranges(content[len(head) :]) if 0 <= first < end <= size_bytes])


def _ranges(content: bytes) -> Iterator[tuple[int, int]]:
    for line in content.split(b"\n"):
        text, _, check = line.rpartition(b" ")
        first, _, end = text.partition(b" ")
        if first.isdigit() and end.isdigit() and check == f"{zlib.crc32(text):08x}".encode():
            yield int(first), int(end)
