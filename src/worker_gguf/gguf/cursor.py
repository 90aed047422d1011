"""A position in a GGUF file: reads numbers and texts, skips arrays of texts, refuses impossible sizes.

Knows nothing of keys and tensors.
"""

from __future__ import annotations

import io
import struct
import sys
from bisect import bisect_left
from collections.abc import Sequence
from typing import BinaryIO, Final, NoReturn

from worker_gguf.errors import ModelInvalid

__all__ = ["Cursor"]

# Bounds of a header. Real ones stay far below: 20 MiB, 600,000 texts.
MAX_HEADER_BYTES: Final = 64 << 20
MAX_STRINGS: Final = 2_000_000
MAX_STRING_BYTES: Final = 4 << 20

WINDOW_BYTES: Final = 1 << 20
FIRST_WINDOW_BYTES: Final = 64 << 10
SLICE_BYTES: Final = 128 << 10
"""Strings are searched in slices whose numpy arrays stay in the processor's cache: 2 x faster than whole windows."""

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


class Cursor:
    """A place in a file, seen through a window of at most WINDOW_BYTES (or one longer string)."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        self.name = name
        self.size = file.seek(0, io.SEEK_END)
        self.at = 0
        self._window = b""
        self._start = 0
        self._n_strings = 0

    def fail(self, why: str) -> NoReturn:
        raise ModelInvalid(f"{self.name} is not a GGUF model that can be loaded: {why}")

    def read(self, layout: struct.Struct) -> int | float:
        index = self._need(layout.size)
        self.at += layout.size
        value: int | float = layout.unpack_from(self._window, index)[0]
        return value

    def u32(self) -> int:
        return int(self.read(_U32))

    def u64(self) -> int:
        return int(self.read(_U64))

    def string(self) -> str:
        length = self.u64()
        if length > MAX_STRING_BYTES:
            self.fail(f"a text of {length} bytes at byte {self.at}. The file is damaged: download it again.")
        index = self._need(length)
        self.at += length
        return self._window[index : index + length].decode("utf-8", errors="replace")

    def raw(self, size_bytes: int) -> bytes:
        index = self._need(size_bytes)
        self.at += size_bytes
        return self._window[index : index + size_bytes]

    def numbers(self, layout: struct.Struct, count: int) -> tuple[int | float, ...]:
        index = self._need(count * layout.size)
        self.at += count * layout.size
        return struct.unpack_from(f"<{count}{layout.format[-1]}", self._window, index)

    def skip(self, size_bytes: int) -> None:
        self._check(size_bytes)
        self.at += size_bytes

    def skip_strings(self, count: int) -> None:
        """Hop over `count` strings: by whole windows with numpy when they are many."""
        self._n_strings += count
        if self._n_strings > MAX_STRINGS:
            self.fail(f"more than {MAX_STRINGS} texts in its header. The file is damaged: download it again.")
        self._check(count * _U64.size)
        while count:
            index = self._need(_U64.size, wanted=WINDOW_BYTES)
            hopped, end = _hop(self._window[index : index + SLICE_BYTES], count)
            if not hopped:
                self.fail(f"a text that is longer than the file at byte {self.at}. Download it again.")
            self.at += end
            self._check(0)
            count -= hopped

    def _check(self, size_bytes: int) -> None:
        end = self.at + size_bytes
        if end > self.size:
            self.fail(
                f"it ends at byte {self.size} and its header extends to {end}. It is cut short: download it again."
            )
        if end > MAX_HEADER_BYTES:
            self.fail(
                f"its header is longer than {MAX_HEADER_BYTES >> 20} MiB. The file is damaged: download it again."
            )

    def _need(self, size_bytes: int, wanted: int = FIRST_WINDOW_BYTES) -> int:
        """Make the next bytes visible; return where in the window they begin."""
        index = self.at - self._start
        if index < 0 or index + size_bytes > len(self._window):
            self._check(size_bytes)
            self._fill(min(max(size_bytes, wanted), self.size - self.at))
            index = 0
        return index

    def _fill(self, size_bytes: int) -> None:
        self.file.seek(self.at)
        window = self.file.read(size_bytes)
        while len(window) < size_bytes:  # raw files and remote ones may answer with less
            more = self.file.read(size_bytes - len(window))
            if not more:
                self.fail(f"reading stopped at byte {self.at + len(window)} of {self.size}. Download it again.")
            window += more
        self._window, self._start = window, self.at


_MANY_STRINGS: Final = 1_000
_SCALAR_RUN: Final = 32


def _hop(window: bytes, count: int) -> tuple[int, int]:
    """Hop over up to `count` strings from the window's start on; return how many and where the last one ends.

    The end may lie beyond the window. Nothing is hopped only if a length is absurd.
    """
    # Waiting for numpy's import (0.1 s) would cost more than it saves; once it is there, it is 4 x faster.
    if count < _MANY_STRINGS or "numpy" not in sys.modules:
        return _hop_one_by_one(window, count)
    starts, breaks = _runs(window)
    at, hopped, last = 0, 0, len(window) - _U64.size
    while hopped < count and at <= last:
        i = bisect_left(starts, at)
        if i < len(starts) and starts[i] == at:
            step = min(breaks[bisect_left(breaks, i)] - i, count - hopped)
            at, hopped = int(starts[i + step]), hopped + step
        for _ in range(min(_SCALAR_RUN, count - hopped)):
            if at > last:
                break
            length = _U64.unpack_from(window, at)[0]
            if length > MAX_HEADER_BYTES:
                return 0, 0
            at += _U64.size + length
            hopped += 1
    return int(hopped), at


def _hop_one_by_one(window: bytes, count: int) -> tuple[int, int]:
    at, hopped, length_at = 0, 0, _U64.unpack_from
    try:
        for hopped in range(count):  # noqa: B007 -- counts to where it stops
            at += length_at(window, at)[0] + 8
        hopped = count
    except (struct.error, OverflowError):
        pass  # past the window's end
    return (0, 0) if at > len(window) + MAX_HEADER_BYTES else (hopped, at)


def _runs(window: bytes) -> tuple[Sequence[int], Sequence[int]]:
    """Find where strings shorter than 256 bytes begin, and at which of them the chain of lengths breaks.

    Such a string begins with one byte and seven zero bytes, and seven zero bytes always hold an aligned 32-bit zero,
    so candidates come from one vectorised compare. A candidate counts only if its 64-bit length leads to the next one.
    """
    import numpy as np

    words = np.frombuffer(window, "<u4", count=len(window) // 4)
    zeros = np.flatnonzero(words[1:] == 0)
    before = words[zeros]
    starts = zeros * 4 + (before > 0xFF) + (before > 0xFFFF) + (before > 0xFFFFFF)
    starts = starts[: np.searchsorted(starts, len(window) - _U64.size, "right")].astype(np.uint64)
    lengths = np.ndarray((max(len(window) - 7, 0),), "<u8", window, strides=(1,))[starts]
    breaks = np.flatnonzero(starts[:-1] + 8 + lengths[:-1] != starts[1:])
    return starts, np.append(breaks, max(len(starts) - 1, 0))  # type: ignore[return-value]
