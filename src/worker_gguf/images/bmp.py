"""BMP: dimensions, and whether all its lines are there."""

from __future__ import annotations

import struct
from typing import Final

from worker_gguf.images.faults import TRUNCATED, ImageFault

__all__ = ["dimensions"]

_OLD: Final = struct.Struct("<IHHHH")
_NEW: Final = struct.Struct("<IiiHHI")
_OLD_SIZE: Final = 12
_SIZES: Final = (_OLD_SIZE, 40, 56, 108, 124)
_UNCOMPRESSED: Final = (0, 3)  # the second one with masks for the colours


def dimensions(data: bytes) -> tuple[int, int]:
    """Return width and height. Raises ImageFault, also if lines are missing."""
    try:
        offset, size = struct.unpack_from("<II", data, 10)
        if size not in _SIZES:
            raise ImageFault("is no BMP that can be decoded: its header is not known.")
        if size == _OLD_SIZE:
            _, width, height, _, depth = _OLD.unpack_from(data, 14)
            compression = 0
        else:
            _, width, height, _, depth, compression = _NEW.unpack_from(data, 14)
    except struct.error:
        raise ImageFault(TRUNCATED) from None
    if compression not in _UNCOMPRESSED:
        raise ImageFault("is a compressed BMP, which cannot be decoded.")
    height = abs(height)  # a negative one means that the first line is at the top
    if width > 0 and offset + height * (-(-width * depth // 32) * 4) > len(data):
        raise ImageFault(TRUNCATED)
    return width, height
