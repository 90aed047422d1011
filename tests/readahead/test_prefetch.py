"""Tests of reading ahead, with a read function in place of the volume. No test waits for a clock."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from worker_gguf.readahead.prefetch import BLOCK_BYTES, Prefetch, drops_on_open

MIB = 1 << 20


def sparse(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


class Volume:
    """Gives what is asked for and notes it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []

    def read(self, fd: int, offset: int, size: int) -> int:
        self.asked.append((Path(f"/proc/self/fd/{fd}").readlink().name, offset, size))
        return size


def read_all(paths: Sequence[Path], volume: Volume, **options: object) -> Prefetch:
    prefetch = Prefetch(paths, read=volume.read, skip_cached=False, **options).start()  # type: ignore[arg-type]
    assert prefetch.wait(60)
    return prefetch


def test_every_byte_of_every_file_is_requested_once(tmp_path: Path) -> None:
    sizes = {"a": 5 * MIB + 17, "b": 0, "c": 3 * BLOCK_BYTES}
    volume = Volume()
    prefetch = read_all([sparse(tmp_path / name, size) for name, size in sizes.items()], volume)
    for name, size in sizes.items():
        pieces = sorted((offset, length) for asked, offset, length in volume.asked if asked == name)
        assert [offset for offset, _ in pieces] == list(range(0, size, BLOCK_BYTES))
        assert sum(length for _, length in pieces) == size
    assert prefetch.bytes_done == prefetch.bytes_total == sum(sizes.values())
    prefetch.close()


def test_no_more_is_read_than_the_limit(tmp_path: Path) -> None:
    volume = Volume()
    prefetch = read_all([sparse(tmp_path / "a", 50 * MIB)], volume, limit_bytes=7 * MIB + 1)
    assert sum(size for *_, size in volume.asked) == prefetch.bytes_done == prefetch.bytes_total == 7 * MIB + 1
    prefetch.close()


def test_readers_are_added_while_each_adds_throughput(tmp_path: Path) -> None:
    clock_s = 0.0

    def clock() -> float:  # as many blocks in the same time as there are readers
        nonlocal clock_s
        clock_s += 0.02 / max(1, made[0].readers if made else 1)
        return clock_s

    made: list[Prefetch] = []
    made.append(Prefetch([sparse(tmp_path / "a", 4096 * MIB)], read=Volume().read, skip_cached=False, clock=clock))
    assert made[0].start().wait(60)
    assert made[0].most_readers > 8
    made[0].close()


def test_a_set_number_of_readers_is_kept(tmp_path: Path) -> None:
    prefetch = read_all([sparse(tmp_path / "a", 400 * MIB)], Volume(), n_readers=3)
    assert prefetch.most_readers == 3
    prefetch.close()


def test_cancel_ends_it_after_the_pieces_under_way(tmp_path: Path) -> None:
    volume, began, go_on = Volume(), threading.Event(), threading.Event()

    def read(fd: int, offset: int, size: int) -> int:
        began.set()
        go_on.wait(60)
        return volume.read(fd, offset, size)

    prefetch = Prefetch([sparse(tmp_path / "a", 400 * MIB)], n_readers=2, read=read, skip_cached=False).start()
    assert began.wait(60)
    prefetch.cancel()
    go_on.set()
    assert prefetch.wait(60)
    assert len(volume.asked) <= 2
    prefetch.close()


def test_files_on_a_hanging_volume_stay_open_and_delay_nothing(tmp_path: Path) -> None:
    go_on = threading.Event()

    def read(fd: int, offset: int, size: int) -> int:
        go_on.wait(60)
        return 0

    prefetch = Prefetch([sparse(tmp_path / "a", MIB)], read=read, skip_cached=False).start()
    fd = prefetch.fd
    assert fd is not None
    prefetch.close(timeout_s=0)
    os.fstat(fd)
    go_on.set()
    assert prefetch.wait(60)
    prefetch.close()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_a_file_that_shrinks_ends_it_without_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(9 * MIB))
    prefetch = Prefetch([path], skip_cached=False)
    os.truncate(path, 3 * MIB)
    assert prefetch.start().wait(60)
    assert (prefetch.bytes_done, prefetch.error) == (3 * MIB, None)
    prefetch.close()


def test_a_short_read_is_continued(tmp_path: Path) -> None:
    def read(fd: int, offset: int, size: int) -> int:
        return min(1000, size)

    prefetch = Prefetch([sparse(tmp_path / "a", 12_345)], read=read, skip_cached=False).start()
    assert prefetch.wait(60)
    assert prefetch.bytes_done == 12_345
    prefetch.close()


def test_a_file_that_vanishes_is_an_error_to_look_at_and_not_to_catch(tmp_path: Path) -> None:
    def read(fd: int, offset: int, size: int) -> int:
        raise OSError(errno.ESTALE, "stale")

    prefetch = Prefetch([sparse(tmp_path / "a", 40 * MIB)], read=read, skip_cached=False).start()
    assert prefetch.wait(60)
    assert prefetch.error is not None
    assert prefetch.error.errno == errno.ESTALE
    prefetch.close()


def test_a_file_that_is_not_there_cannot_be_opened(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        Prefetch([sparse(tmp_path / "a", MIB), tmp_path / "b"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_the_page_cache_has_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(5 * MIB))
    with path.open("rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(4096)], 0, os.RWF_NOWAIT)
        except OSError as error:
            pytest.skip(f"this file system cannot tell: {error}")
    volume = Volume()
    prefetch = Prefetch([path], read=volume.read).start()
    assert prefetch.wait(60)
    assert volume.asked == []
    assert prefetch.bytes_cached == prefetch.bytes_done == 5 * MIB
    prefetch.close()


def test_a_local_file_keeps_its_pages_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    with path.open("rb") as file:
        assert not drops_on_open(path, file.fileno())


def test_a_child_reads_as_this_process_would(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(9 * MIB + 17))
    prefetch = Prefetch([path], skip_cached=False).start(in_child=True)
    assert prefetch.wait(60)
    assert (prefetch.bytes_done, prefetch.bytes_cached, prefetch.error) == (9 * MIB + 17, 0, None)
    assert prefetch.most_readers > 0
    assert prefetch.ended_s is not None
    assert prefetch.ended_s >= prefetch.began_s
    prefetch.close()


def test_what_fails_in_a_child_is_known_here(tmp_path: Path) -> None:
    def read(fd: int, offset: int, size: int) -> int:
        raise OSError(errno.ESTALE, "stale")

    prefetch = Prefetch([sparse(tmp_path / "a", MIB)], read=read, skip_cached=False).start(in_child=True)
    assert prefetch.wait(60)
    assert prefetch.error is not None
    assert prefetch.error.errno == errno.ESTALE
    prefetch.close()


def test_a_child_that_waits_for_the_volume_is_stopped_with_the_prefetch(tmp_path: Path) -> None:
    never = threading.Event()

    def read(fd: int, offset: int, size: int) -> int:
        never.wait()
        return 0

    prefetch = Prefetch([sparse(tmp_path / "a", MIB)], read=read, skip_cached=False).start(in_child=True)
    assert not prefetch.wait(0)
    prefetch.close()
    assert prefetch.wait(0)
    assert prefetch.bytes_done == 0
    assert prefetch.error is None


def test_a_child_that_is_killed_ends_it(tmp_path: Path) -> None:
    def read(fd: int, offset: int, size: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return size

    prefetch = Prefetch([sparse(tmp_path / "a", MIB)], read=read, skip_cached=False).start(in_child=True)
    assert prefetch.wait(60)
    prefetch.close()


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    sparse(tmp_path / "a", MIB)
    code = (
        "import os, pathlib, threading\n"
        "from worker_gguf.readahead.prefetch import Prefetch\n"
        "def read(fd, offset, size): print(os.getpid(), flush=True); threading.Event().wait()\n"
        f"prefetch = Prefetch([pathlib.Path({str(tmp_path / 'a')!r})], read=read, skip_cached=False)\n"
        "prefetch.start(in_child=True); input()\n"
    )
    pipe = subprocess.PIPE
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert child != parent.pid
    parent.kill()
    parent.communicate(timeout=60)  # returns when the child, which shares its pipes, has ended too
    assert not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes()
