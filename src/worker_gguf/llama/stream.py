"""A stream of the C library on an open file."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["open_stream"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fdopen.argtypes, _libc.fdopen.restype = [ctypes.c_int, ctypes.c_char_p], ctypes.c_void_p
_libc.fclose.argtypes, _libc.fclose.restype = [ctypes.c_void_p], ctypes.c_int


@contextmanager
def open_stream(fd: int) -> Iterator[ctypes.c_void_p]:
    """Give a C stream that reads an open descriptor from its beginning. Moves its position in the file."""
    own = os.dup(fd)
    os.lseek(own, 0, os.SEEK_SET)
    stream = _libc.fdopen(own, b"rb")
    if not stream:
        os.close(own)
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        yield ctypes.c_void_p(stream)
    finally:
        _libc.fclose(stream)
