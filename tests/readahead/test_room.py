"""Tests of the room in the page cache."""

from __future__ import annotations

from pathlib import Path

from worker_gguf.readahead.room import page_cache_room_bytes

GIB = 1 << 30


def machine(
    folder: Path, available_gib: int, limit: str | None = None, anon_gib: int = 0, file_gib: int = 0
) -> int | None:
    (folder / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {available_gib * GIB // 1024} kB\n")
    if limit is not None:
        (folder / "memory.max").write_text(limit)
        (folder / "memory.stat").write_text(f"anon {anon_gib * GIB}\nfile {file_gib * GIB}\n")
    return page_cache_room_bytes(folder / "meminfo", folder)


def test_the_room_is_most_of_the_available_memory(tmp_path: Path) -> None:
    assert machine(tmp_path, 10) == 9 * GIB


def test_a_containers_limit_cuts_it_and_its_page_cache_does_not_count(tmp_path: Path) -> None:
    assert machine(tmp_path, 100, str(12 * GIB), anon_gib=2, file_gib=9) == 9 * GIB


def test_a_container_without_a_limit_is_as_none(tmp_path: Path) -> None:
    assert machine(tmp_path, 10, "max") == 9 * GIB


def test_the_room_is_unknown_without_the_kernels_files(tmp_path: Path) -> None:
    assert page_cache_room_bytes(tmp_path / "none", tmp_path) is None
