"""Computes how much of a file fits into the page cache without evicting pages that were read before."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["page_cache_room_bytes"]

_SHARE: Final = 0.9
"""The rest is for the start itself."""


def page_cache_room_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that the page cache can use, or None if unknown.

    This is the kernel's estimate, limited by the container's limit. Only memory that cannot be dropped is subtracted
    from that limit, because a container's page cache counts as used but evicts only its own pages.
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
