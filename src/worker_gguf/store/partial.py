"""A partial download: a folder with the fetched bytes and a journal of the complete ranges.

The folder is named after its owner. Another worker takes it over by renaming it, which only one worker can do. After a
power cut, a range in the journal may be missing on disk; the digest of the whole file detects this.
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
"""Reads from a busy volume take seconds. Reads of a file that a dead machine has locked take minutes."""
_DATA = "data"
_JOURNAL = "ranges"


class Partial:
    """A partial download. `write` can be called from several threads, for ranges that do not overlap."""

    def __init__(self, folder: Path, size_bytes: int, version: str) -> None:
        """Continue the partial download in `folder` or start one. Ranges of another `version` are discarded."""
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
        """Continue the largest partial download of `key` that an earlier owner left, or start a new one."""
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
        """The number of bytes from the beginning of the file that are complete."""
        with self._lock:
            return self._whole[0][1] if self._whole and self._whole[0][0] == 0 else 0

    def missing(self, most_bytes: int) -> list[tuple[int, int]]:
        """Return the missing ranges (first, end) in order, each at most `most_bytes` long."""
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
        """Write bytes at offset `at` and add their range to the journal. Raises ValueError if it is closed."""
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
        """Flush the fetched bytes to disk, and then the journal."""
        with suppress(ValueError), self._open_data() as number:
            os.fsync(number)
            os.fsync(self._journal.fileno())

    @contextmanager
    def _open_data(self) -> Iterator[int]:
        """Keep the data file open. Otherwise a late thread could write to a descriptor that was closed and reused."""
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
        """Refuse further ranges. Ranges that are being written are finished."""
        with self._lock:
            self._is_closed = True
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._is_closed and not self._n_busy:
            for file in (self._data, self._journal):
                with suppress(OSError):  # the volume is missing; all bytes that had to be on disk were synced earlier
                    file.close()

    def publish(self, path: Path) -> None:
        """Flush the file to disk and then move it to its final path."""
        os.fchmod(self._data.fileno(), 0o644)
        os.fsync(self._data.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        self.data_path.replace(path)
        sync_folder(path.parent)
        self.discard()

    def discard(self) -> None:
        """Close and delete the partial download."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def folders_of(parent: Path, key: str) -> list[Path]:
    """Return all folders for partial downloads of `key`."""
    try:
        return [path for path in parent.iterdir() if path.name.startswith(f"{key}.")]
    except FileNotFoundError:
        return []


def left_behind(parent: Path, key: str, patience_s: float = PATIENCE_S) -> list[Path]:
    """Return the folders of partial downloads of `key` that can be continued, the largest first.

    A file that a dead machine was writing can be unreadable for minutes, because MooseFS keeps its chunks locked. A
    folder that cannot be read within `patience_s` seconds is left out.
    """
    noted: dict[Path, int] = {}

    def look(folder: Path) -> None:
        noted[folder] = noted_bytes(folder)

    folders = folders_of(parent, key)
    threads = [threading.Thread(target=look, args=(folder,), name="look", daemon=True) for folder in folders]
    for thread in threads:
        thread.start()
    until = time.monotonic() + patience_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    readable = dict(noted)
    return sorted(readable, key=lambda path: (-readable[path], path.name))


def noted_bytes(folder: Path) -> int:
    """Return the number of fetched bytes by the journal of a folder, or 0 if the data cannot be read up to there."""
    try:
        head = (folder / _JOURNAL).read_bytes().partition(b"\n")[0] + b"\n"
        ranges = _read_journal(folder / _JOURNAL, head, int(head.split()[0])) or ()
        with (folder / _DATA).open("rb", buffering=0) as data:
            is_here = all(os.pread(data.fileno(), 1, end - 1) for _, end in ranges)
    except (OSError, ValueError, IndexError):
        return 0
    return sum(end - first for first, end in ranges) if is_here else 0


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort ranges (first, end), and join those that touch or overlap."""
    joined: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((first, end))
    return joined


def sync_folder(path: Path) -> None:
    """Flush the entries of a folder to disk, if its file system supports it."""
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
    """Return the ranges in the journal, or None if it belongs to another file. Partly written lines are ignored."""
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
