"""A FUSE mount on which every read takes a set time, as on a network volume.

Each mount is a process of its own. `mounted` needs the mfusepy package, libfuse and /dev/fuse; `why_not` says what is
missing. A fresh mount has no cached pages, so nothing needs to be dropped before a measurement.
"""

import argparse
import errno
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVED = ".served"
"""A file at the mount's root that is not in the folder: how many bytes were read from the files so far."""
_SERVED_BYTES = 24
MOUNT_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Mount:
    """What it is like to read there. `bytes_per_s` is shared by all readers; `drops` is what FUSE does by default: the
    pages of a file leave the page cache whenever somebody opens it."""

    latency_s: float = 0.003
    bytes_per_s: float | None = None
    drops: bool = False


def why_not() -> str | None:
    """Return why nothing can be mounted here, or None."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is absent or not ours"
    if not (find_library("fuse3") or find_library("fuse")):
        return "libfuse is not installed (Debian: libfuse3-3 and fuse3)"
    if importlib.util.find_spec("mfusepy") is None:
        return "the Python package mfusepy is not installed"
    return None


@contextmanager
def mounted(folder: Path, at: Path, mount: Mount) -> Iterator[Path]:
    """Show `folder` at `at` while the block runs."""
    at.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bench.slow_mount", str(folder), str(at), str(mount.latency_s)]
    command += [str(mount.bytes_per_s or 0), str(int(mount.drops))]
    server = subprocess.Popen(command, cwd=Path(__file__).parents[1])
    try:
        deadline = time.monotonic() + MOUNT_TIMEOUT_S
        while not (at / SERVED).exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nothing is mounted at {at}")
            time.sleep(0.02)
        yield at
    finally:
        unmount(at)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def unmount(at: Path) -> None:
    """Lazily: who still holds a file there keeps it."""
    for command in (
        ["fusermount3", "-u", "-z", str(at)],
        ["fusermount", "-u", "-z", str(at)],
        ["umount", "-l", str(at)],
    ):
        try:
            if subprocess.run(command, check=False, capture_output=True).returncode == 0:
                return
        except FileNotFoundError:
            continue


def served_bytes(at: Path) -> int:
    return int((at / SERVED).read_text())


class _Slow:
    """The file system's operations, called by libfuse on many threads."""

    use_ns = True

    def __init__(self, folder: str, mount: Mount) -> None:
        self._folder = folder
        self._mount = mount
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._served = 0

    def getattr(self, path: str, fh: object = None) -> dict[str, int]:
        if path == f"/{SERVED}":
            return {"st_mode": 0o100444, "st_size": _SERVED_BYTES, "st_nlink": 1}
        try:
            status = Path(self._folder + path).stat()
        except OSError as error:
            raise OSError(error.errno or errno.EIO, "") from None
        names = ("st_mode", "st_size", "st_nlink", "st_uid", "st_gid")
        times = {name: getattr(status, f"{name}_ns") for name in ("st_mtime", "st_ctime", "st_atime")}
        return {name: getattr(status, name) for name in names} | times

    def readdir(self, path: str, fh: object = None) -> list[str]:
        return [".", "..", *(entry.name for entry in Path(self._folder + path).iterdir())]

    def readlink(self, path: str) -> str:
        return str(Path(self._folder + path).readlink())

    def open(self, path: str, info: Any) -> int:
        if path == f"/{SERVED}":
            info.direct_io = 1
            info.fh = 0
            return 0
        info.fh = os.open(self._folder + path, os.O_RDONLY)
        info.keep_cache = int(not self._mount.drops)
        return 0

    def read(self, path: str, size: int, offset: int, info: Any) -> bytes:
        if path == f"/{SERVED}":
            return str(self._served).rjust(_SERVED_BYTES).encode()[offset : offset + size]
        self._wait(size)
        piece = os.pread(info.fh, size, offset)
        with self._lock:
            self._served += len(piece)
        return piece

    def release(self, path: str, info: Any) -> int:
        if path != f"/{SERVED}":
            os.close(info.fh)
        return 0

    def _wait(self, size: int) -> None:
        wait_s = self._mount.latency_s
        if self._mount.bytes_per_s:
            with self._lock:
                now = time.monotonic()
                self._free_at = max(self._free_at, now) + size / self._mount.bytes_per_s
                wait_s = max(wait_s, self._free_at - now)
        if wait_s:
            time.sleep(wait_s)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.slow_mount", description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("at")
    parser.add_argument("latency_s", type=float)
    parser.add_argument("bytes_per_s", type=float)
    parser.add_argument("drops", type=int)
    args = parser.parse_args()
    import mfusepy

    mount = Mount(args.latency_s, args.bytes_per_s or None, bool(args.drops))
    options = {"max_threads": 64} if mfusepy.fuse_version_major == 3 else {}
    slow = _Slow(str(Path(args.folder).resolve()), mount)
    mfusepy.FUSE(slow, args.at, raw_fi=True, foreground=True, ro=True, allow_other=True, **options)


if __name__ == "__main__":
    main()
