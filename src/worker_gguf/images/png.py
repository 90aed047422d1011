"""PNG: dimensions, and whether its compressed data unpacks to as much as they say, no more and no less."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from worker_gguf.images.faults import TRUNCATED, ImageFault

__all__ = ["SIGNATURE", "check_content", "dimensions"]

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEADER: Final = struct.Struct(">IIBBBBB")
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# The passes of an interlaced image: first column and row, and the steps between columns and rows.
_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# Some programs write a little more than the image needs, which is ignored.
_SLACK: Final = 1 << 16
_PIECE: Final = 1 << 20
_FED: Final = 1 << 16


class _Header(NamedTuple):
    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filtering: int
    interlace: int


def dimensions(data: bytes) -> tuple[int, int]:
    """Return width and height. Raises ImageFault."""
    header = _header(data)
    return header.width, header.height


def check_content(data: bytes) -> None:
    """Unpack the image piece by piece and count the bytes. Raises ImageFault if they are not those of the header.

    A megabyte takes some milliseconds, and never more than a piece is in memory.
    """
    header = _header(data)
    expected = _n_unpacked(header)
    unpacker, n_unpacked = zlib.decompressobj(), 0
    try:
        for packed in _image_data(data):
            rest: memoryview | bytes = packed
            while rest and not unpacker.eof and n_unpacked <= expected + _SLACK:
                n_unpacked += len(unpacker.decompress(rest, _PIECE))
                rest = unpacker.unconsumed_tail
    except zlib.error:
        raise ImageFault("is damaged: its compressed data cannot be unpacked.") from None
    if n_unpacked > expected + _SLACK:
        raise ImageFault("is not what it says: its data unpacks to more than its dimensions.")
    if n_unpacked < expected:
        raise ImageFault(TRUNCATED)


def _header(data: bytes) -> _Header:
    if len(data) < len(SIGNATURE) + 8 + _HEADER.size:
        raise ImageFault(TRUNCATED)
    if data[12:16] != b"IHDR":
        raise ImageFault("is no PNG that can be decoded: it does not begin with its header.")
    header = _Header(*_HEADER.unpack_from(data, 16))
    if header.colour not in _CHANNELS or header.depth not in (1, 2, 4, 8, 16) or header.interlace > 1:
        raise ImageFault("is damaged: its header has values that no PNG has.")
    return header


def _image_data(data: bytes) -> Iterator[memoryview]:
    """Yield the compressed data of the image in pieces. Raises ImageFault if the file ends before the image does."""
    view, at = memoryview(data), len(SIGNATURE)
    while True:
        if at + 8 > len(data):
            raise ImageFault(TRUNCATED)
        size, kind = int.from_bytes(view[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 8
        if kind == b"IEND":
            return
        if at + size + 4 > len(data):
            raise ImageFault(TRUNCATED)
        if kind == b"IDAT":
            yield from (view[i : min(i + _FED, at + size)] for i in range(at, at + size, _FED))
        at += size + 4  # with the checksum


def _n_unpacked(header: _Header) -> int:
    """Return the number of bytes of all lines, each of which begins with the number of its filter."""
    bits = header.depth * _CHANNELS[header.colour]

    def of(width: int, height: int) -> int:
        return height * (1 + -(-width * bits // 8)) if width and height else 0

    if not header.interlace:
        return of(header.width, header.height)
    return sum(of(-(-(header.width - x) // dx), -(-(header.height - y) // dy)) for x, y, dx, dy in _PASSES)
