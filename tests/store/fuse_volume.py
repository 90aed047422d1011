"""A writable FUSE folder that lies about locks: every process gets every lock at once.

`mounted` gives its process, so that a test can take the volume away in the middle.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.slow_mount import unmount, why_not

__all__ = ["mounted", "why_not"]

_ROOT = Path(__file__).parents[2]


@contextmanager
def mounted(folder: Path, at: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Show `folder` at `at`, writable, while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    at.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.store.fuse_volume", str(folder), str(at)]
    server = subprocess.Popen(command, cwd=_ROOT)
    try:
        until = time.monotonic() + 20
        while not at.is_mount():
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"nothing is mounted at {at}")
            time.sleep(0.02)
        yield server
    finally:
        unmount(at)
        server.kill()
        server.wait()


class _Volume:
    """The file system's operations, called by libfuse on many threads. Nothing is cached between two of them."""

    use_ns = True

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def _at(self, path: str) -> Path:
        return Path(self._folder + path)

    def getattr(self, path: str, fh: object = None) -> dict[str, int]:
        try:
            status = self._at(path).lstat()
        except OSError as error:
            raise OSError(error.errno or errno.EIO, "") from None
        names = ("st_mode", "st_size", "st_nlink", "st_uid", "st_gid")
        times = {name: getattr(status, f"{name}_ns") for name in ("st_mtime", "st_ctime", "st_atime")}
        return {name: getattr(status, name) for name in names} | times

    def statfs(self, path: str) -> dict[str, int]:
        status = os.statvfs(self._folder)
        names = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_namemax")
        return {name: getattr(status, name) for name in names}

    def flock(self, path: str, info: Any, operation: int) -> int:
        return 0

    def lock(self, path: str, info: Any, command: int, lock: object) -> int:
        return 0

    # --- folders and names ------------------------------------------------------------------------------------------

    def readdir(self, path: str, fh: object = None) -> list[str]:
        return [".", "..", *(entry.name for entry in self._at(path).iterdir())]

    def readlink(self, path: str) -> str:
        return str(self._at(path).readlink())

    def symlink(self, target: str, source: str) -> int:
        self._at(target).symlink_to(source)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self._at(path).mkdir(mode)
        return 0

    def rmdir(self, path: str) -> int:
        self._at(path).rmdir()
        return 0

    def unlink(self, path: str) -> int:
        self._at(path).unlink()
        return 0

    def rename(self, old: str, new: str) -> int:
        self._at(old).rename(self._at(new))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        self._at(path).chmod(mode)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        if times is None:
            os.utime(self._at(path))
        else:
            os.utime(self._at(path), ns=times)
        return 0

    # --- files ------------------------------------------------------------------------------------------------------

    def create(self, path: str, mode: int, info: Any) -> int:
        info.fh = os.open(self._at(path), os.O_RDWR | os.O_CREAT | (info.flags & os.O_EXCL), mode)
        info.direct_io = 1
        return 0

    def open(self, path: str, info: Any) -> int:
        info.fh = os.open(self._at(path), info.flags & ~os.O_APPEND)
        info.direct_io = 1
        return 0

    def read(self, path: str, size: int, offset: int, info: Any) -> bytes:
        return os.pread(info.fh, size, offset)

    def write(self, path: str, content: bytes, offset: int, info: Any) -> int:
        return os.pwrite(info.fh, content, offset)

    def truncate(self, path: str, length: int, info: Any = None) -> int:
        os.truncate(self._at(path), length)
        return 0

    def fsync(self, path: str, datasync: int, info: Any) -> int:
        os.fsync(info.fh)
        return 0

    def release(self, path: str, info: Any) -> int:
        os.close(info.fh)
        return 0


def main() -> None:
    import mfusepy

    mfusepy.FUSE(_Volume(Path(sys.argv[1])), sys.argv[2], raw_fi=True, foreground=True, allow_other=True)


if __name__ == "__main__":
    main()
