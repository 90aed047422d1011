"""GIF: dimensions, and whether its first image is there. The others are not looked at."""

from __future__ import annotations

import struct
from typing import Final

from worker_gguf.images.faults import TRUNCATED, ImageFault

__all__ = ["dimensions"]

_SCREEN: Final = struct.Struct("<HHBBB")
_IMAGE: Final = struct.Struct("<HHHHB")
_EXTENSION, _DESCRIPTOR = 0x21, 0x2C


def dimensions(data: bytes) -> tuple[int, int]:
    """Return width and height. Raises ImageFault, also if the first image does not end."""
    if data[:6] not in (b"GIF87a", b"GIF89a"):
        raise ImageFault("is no GIF that can be decoded: its version is not known.")
    try:
        return _dimensions(data)
    except (IndexError, struct.error):
        raise ImageFault(TRUNCATED) from None


def _dimensions(data: bytes) -> tuple[int, int]:
    width, height, flags, _, _ = _SCREEN.unpack_from(data, 6)
    at = 6 + _SCREEN.size + _colours(flags)
    while data[at] == _EXTENSION:
        at = _after_blocks(data, at + 2)
    if data[at] != _DESCRIPTOR:
        raise ImageFault("has no image in it.")
    x, y, image_width, image_height, flags = _IMAGE.unpack_from(data, at + 1)
    if x + image_width > width or y + image_height > height:
        raise ImageFault("is damaged: its first image is larger than the whole.")
    _after_blocks(data, at + 1 + _IMAGE.size + _colours(flags) + 1)
    return width, height


def _colours(flags: int) -> int:
    """Return the size of a table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    """Return the place after blocks of data, each of which begins with its length. The last one has none."""
    while size := data[at]:
        at += 1 + size
    return at + 1
