"""JPEG: dimensions, and whether all its scans are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from worker_gguf.images.faults import TRUNCATED, ImageFault

__all__ = ["dimensions"]

# Baseline, extended and progressive. The others, such as arithmetic coding, cannot be decoded.
_FRAMES: Final = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES: Final = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_START_OF_SCAN, _END = 0xDA, 0xD9
_ALONE: Final = (0x01, *range(0xD0, 0xD9))  # markers without a length
# Each scan of a progressive image passes over all its pixels, and may have a few bytes only.
_MOST_SCANS: Final = 100
# A marker in the data of a scan: not a byte 0xFF that stands for itself, nor a restart.
_MARKER: Final = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


def dimensions(data: bytes) -> tuple[int, int]:
    """Return width and height. Raises ImageFault, also if the image does not end."""
    found: tuple[int, int] | None = None
    n_scans = 0
    for marker, at, size in _segments(data):
        if marker in _OTHER_FRAMES:
            raise ImageFault("is a JPEG of a kind that cannot be decoded (lossless, hierarchical or arithmetic).")
        if marker in _FRAMES:
            if found is not None:
                raise ImageFault("is damaged: it has two headers.")
            found = _frame(data, at, size)
        n_scans += marker == _START_OF_SCAN
        if n_scans > _MOST_SCANS:
            raise ImageFault(f"has more than {_MOST_SCANS} scans.")
    if found is None or not n_scans:
        raise ImageFault("has no image in it.")
    return found


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, place and size of each segment up to the end of the image."""
    at = 2
    while (marker := data[(at := _marker_after(data, at)) - 1]) != _END:
        if marker in _ALONE:
            continue
        size = int.from_bytes(data[at : at + 2], "big")
        if at + max(size, 2) > len(data):
            raise ImageFault(TRUNCATED)
        if size < 2:
            raise ImageFault("is damaged: a part of it has no length.")
        yield marker, at, size
        at += size


def _marker_after(data: bytes, at: int) -> int:
    """Return the place after the next marker."""
    found = _MARKER.search(data, at)
    if found is None:
        raise ImageFault(TRUNCATED)
    return found.end()


def _frame(data: bytes, at: int, size: int) -> tuple[int, int]:
    if size < 8:
        raise ImageFault("is damaged: its header is too short.")
    height, width = int.from_bytes(data[at + 3 : at + 5], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
    return width, height
