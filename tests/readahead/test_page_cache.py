"""Tests of reading a file into the page cache."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker_gguf.readahead.page_cache import PageCache

MIB = 1 << 20


@pytest.fixture
def page_cache() -> Iterator[PageCache]:
    made = PageCache()
    yield made
    made.close()


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * MIB + 17))
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def bring_all(page_cache: PageCache, fd: int, offset: int, size: int) -> int:
    done = 0
    while done < size and (n_bytes := page_cache.bring(fd, offset + done, size - done)):
        done += n_bytes
    return done


@pytest.mark.parametrize(("offset", "size"), [(0, 3 * MIB + 17), (MIB - 5, 2 * MIB), (3 * MIB, 17), (3 * MIB + 16, 1)])
def test_what_is_asked_for_is_brought(page_cache: PageCache, fd: int, offset: int, size: int) -> None:
    assert bring_all(page_cache, fd, offset, size) == size


def test_the_files_end_ends_it(page_cache: PageCache, fd: int) -> None:
    assert bring_all(page_cache, fd, 3 * MIB, 2 * MIB) == 17
    assert page_cache.bring(fd, 3 * MIB + 17, 1) == 0


def test_the_place_in_the_file_does_not_move(page_cache: PageCache, fd: int) -> None:
    page_cache.bring(fd, MIB, MIB)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 0


def test_pages_are_in_memory_afterwards(page_cache: PageCache, fd: int) -> None:
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert bring_all(page_cache, fd, 0, 3 * MIB) == 3 * MIB
    try:
        assert os.preadv(fd, [bytearray(MIB)], 2 * MIB, os.RWF_NOWAIT) == MIB
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            pytest.skip(f"this file system cannot tell: {error}")
        raise


def test_where_nothing_can_be_sent_to_the_null_device_it_is_read(page_cache: PageCache, fd: int) -> None:
    page_cache.close()
    assert bring_all(page_cache, fd, 100, 2 * MIB) == 2 * MIB


def test_a_file_that_cannot_be_read_is_an_error(page_cache: PageCache, tmp_path: Path) -> None:
    closed = os.open(tmp_path, os.O_RDONLY)
    os.close(closed)
    with pytest.raises(OSError, match="Bad file descriptor"):
        page_cache.bring(closed, 0, MIB)
