"""Tests of the machine's processors and memory, as a container sees them."""

from __future__ import annotations

from pathlib import Path

from worker_gguf.llama.machine import _free_bytes, read_machine

MIB = 1 << 20


def cgroup(folder: Path, limit: str, used: int, files: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - files}\nactive_file {files // 2}\ninactive_file {files // 2}\n")
    return folder


def test_a_containers_limit_reduces_free_memory_but_its_page_cache_counts_as_free(tmp_path: Path) -> None:
    assert _free_bytes(cgroup(tmp_path, str(100 * MIB), 90 * MIB, 60 * MIB)) == 70 * MIB


def test_without_a_limit_the_machines_memory_is_free(tmp_path: Path) -> None:
    assert _free_bytes(cgroup(tmp_path, "max", 0, 0)) > 100 * MIB
    assert _free_bytes(tmp_path / "absent") > 100 * MIB


def test_this_machine_has_cores_and_memory() -> None:
    machine = read_machine()
    assert machine.n_cores >= 1
    assert machine.free_bytes > 100 * MIB
