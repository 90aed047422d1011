"""Images with random pixels, as files."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

__all__ = ["data_url", "png", "png_chunk", "png_of"]


def png(seed: int, width: int = 60, height: int = 40) -> bytes:
    """Return a PNG of noise. The same arguments give the same bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return png_of(width, height, lines=b"".join(b"\0" + row.tobytes() for row in pixels))


def data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def png_of(width: int, height: int, lines: bytes | None = None, depth: int = 8, interlace: int = 0) -> bytes:
    """Return a PNG with these lines, or of grey where none are given."""
    colour = 0 if lines is None else 2
    if lines is None:
        lines = bytes(n_grey(width, height, depth, interlace))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def n_grey(width: int, height: int, depth: int, interlace: int) -> int:
    """Return the size of all lines of a grey image, by counting the pixels of each pass."""
    if not interlace:
        return height * (1 + (width * depth + 7) // 8)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    counts = [(len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in passes]
    return sum(rows * (1 + (columns * depth + 7) // 8) for columns, rows in counts if columns)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
