"""Tests of partial downloads: the whole ranges are known to the byte, and exactly one worker takes them over."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_gguf.store.partial import Partial, folders_of, left_behind, merged, noted_bytes

RANGES = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)).map(lambda pair: (pair[0], sum(pair))))


@given(RANGES)
def test_joined_ranges_cover_the_same_bytes(ranges: list[tuple[int, int]]) -> None:
    joined = merged(ranges)
    assert {at for first, end in joined for at in range(first, end)} == {at for r in ranges for at in range(*r)}
    assert all(one[1] < two[0] for one, two in pairwise(joined))


def test_the_work_of_an_earlier_owner_is_continued(tmp_path: Path) -> None:
    first = Partial.take_over(tmp_path, "key", "a", 100, "v1")
    assert first.missing(60) == [(0, 60), (60, 100)]
    first.write(0, b"x" * 10)
    first.write(50, b"y" * 10)
    first.close()
    second = Partial.take_over(tmp_path, "key", "b", 100, "v1")
    assert [path.name for path in tmp_path.iterdir()] == ["key.b"]
    assert second.bytes_done == 20
    assert second.whole_to == 10
    assert second.missing(100) == [(10, 50), (60, 100)]
    assert second.read(50, 10) == b"y" * 10
    second.close()


def test_most_of_several_is_taken_and_the_rest_removed(tmp_path: Path) -> None:
    for owner, n_bytes in (("a", 10), ("b", 30), ("c", 20)):
        partial = Partial(tmp_path / f"key.{owner}", 100, "v1")
        partial.write(0, b"x" * n_bytes)
        partial.close()
    assert [noted_bytes(folder) for folder in left_behind(tmp_path, "key")] == [30, 20, 10]
    taken = Partial.take_over(tmp_path, "key", "d", 100, "v1")
    assert taken.bytes_done == 30
    assert [path.name for path in tmp_path.iterdir()] == ["key.d"]
    taken.close()


def test_another_version_begins_again(tmp_path: Path) -> None:
    first = Partial(tmp_path / "key.a", 100, "v1")
    first.write(0, b"x" * 10)
    first.close()
    second = Partial.take_over(tmp_path, "key", "b", 100, "v2")
    assert second.bytes_done == 0
    second.close()


def test_torn_and_foreign_lines_say_nothing(tmp_path: Path) -> None:
    first = Partial(tmp_path / "key.a", 100, "v1")
    first.write(0, b"x" * 10)
    first.close()
    with (tmp_path / "key.a" / "ranges").open("ab") as journal:
        journal.write(b"0 100\n50 60 00000000\n\xff\xfe\n10 2")
    second = Partial(tmp_path / "key.a", 100, "v1")
    assert second.missing(100) == [(10, 100)]
    second.close()


def test_journal_without_bytes_is_nothing(tmp_path: Path) -> None:
    first = Partial(tmp_path / "key.a", 100, "v1")
    first.write(0, b"x" * 10)
    first.close()
    first.data_path.unlink()
    second = Partial(tmp_path / "key.a", 100, "v1")
    assert second.bytes_done == 0
    second.close()


def test_published_file_leaves_nothing_behind(tmp_path: Path) -> None:
    partial = Partial(tmp_path / "work" / "key.a", 4, "v1")
    partial.write(0, b"GGUF")
    partial.publish(tmp_path / "blobs" / "key")
    assert (tmp_path / "blobs" / "key").read_bytes() == b"GGUF"
    assert list((tmp_path / "work").iterdir()) == []


def test_work_that_cannot_be_read_is_none_to_go_on_with_and_is_not_waited_for(tmp_path: Path) -> None:
    """Some volumes keep files locked that a dead machine was writing. A pipe without a writer blocks in the same
    way.
    """
    sound = Partial(tmp_path / "key.a", 100, "v1")
    sound.write(0, b"x" * 10)
    sound.close()
    (tmp_path / "key.b").mkdir()
    os.mkfifo(tmp_path / "key.b" / "ranges")
    assert left_behind(tmp_path, "key", patience_s=0.1) == [tmp_path / "key.a"]
    assert set(folders_of(tmp_path, "key")) == {tmp_path / "key.a", tmp_path / "key.b"}
    with (tmp_path / "key.b" / "ranges").open("wb"):  # lets go of whoever still reads
        pass


def test_noted_bytes_that_are_not_there_do_not_count(tmp_path: Path) -> None:
    partial = Partial(tmp_path / "key.a", 100, "v1")
    partial.write(50, b"x" * 10)
    partial.close()
    assert noted_bytes(tmp_path / "key.a") == 10
    os.truncate(tmp_path / "key.a" / "data", 55)
    assert noted_bytes(tmp_path / "key.a") == 0


def test_sync_puts_the_bytes_on_disk_before_the_note_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr("os.fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink().name))
    partial = Partial(tmp_path / "key.a", 100, "v1")
    partial.sync()
    assert synced == ["data", "ranges"]
    partial.close()
    partial.sync()  # too late, and no harm
    assert len(synced) == 2
