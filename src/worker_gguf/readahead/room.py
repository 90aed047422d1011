"""Finds how much of a file fits into the page cache without evicting its own earlier pages."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["page_cache_room_bytes"]

_SHARE: Final = 0.9
"""The rest is left for the start itself."""


def page_cache_room_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the memory that the page cache can get: the kernel's estimate, limited by the container. None if unknown.

    A container's page cache counts against its limit and evicts only itself, so only memory that cannot be dropped is
    subtracted.
    """
    try:
        room = (
            next(_number(line) for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")) * 1024
        )
    except (OSError, StopIteration, ValueError):
        return None
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit != "max":
            lines = (cgroup / "memory.stat").read_text().splitlines()
            held = sum(_number(line) for line in lines if line.split()[0] in ("anon", "kernel", "shmem", "unevictable"))
            room = min(room, max(0, int(limit) - held))
    except (OSError, ValueError, IndexError):
        pass
    return int(room * _SHARE)


def _number(line: str) -> int:
    return int(line.split()[1])
