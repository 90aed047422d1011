"""Tests whether a cache can be written and whether a file has the right digest."""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["matches_record", "why_not_writable"]

_BLOCK_BYTES: Final = 8 << 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def why_not_writable(folder: Path) -> OSError | None:
    """Write a small file to the folder and delete it. Returns the error, or None if this succeeded."""
    path = folder / f".{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"worker-gguf")
    except OSError as error:
        return error
    finally:
        with contextlib.suppress(OSError):  # a file that cannot be written can often not be deleted either
            path.unlink(missing_ok=True)
    return None


def matches_record(path: Path, goes_on: Callable[[float], bool] = lambda fraction: True) -> bool | None:
    """Return whether the SHA-256 of a file is equal to the name of its blob in the Hub's cache.

    Reads the whole file. `goes_on` is called with the fraction that is done, 0 to 1. Returns None if the name is not a
    SHA-256, or if `goes_on` returned False.
    """
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name):
        return None
    digest, n_bytes, size_bytes = hashlib.sha256(), 0, max(1, blob.stat().st_size)
    with blob.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            n_bytes += len(block)
            if not goes_on(n_bytes / size_bytes):
                return None
    return digest.hexdigest() == blob.name
