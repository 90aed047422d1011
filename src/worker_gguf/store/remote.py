"""Reads the header of a model on the Hub by ranges of bytes, so that a plan can be made before the download.

To make few requests, each read fetches more than requested, twice as much each time. The last reads are kept.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import BinaryIO, Final, cast

from msgspec import Struct

from worker_gguf.gguf import ModelHeader, read_headers
from worker_gguf.store import select
from worker_gguf.store.hub import Hub
from worker_gguf.store.joined import JoinedFile
from worker_gguf.store.ref import HubRef
from worker_gguf.store.web import Interrupted, WebFile

__all__ = ["RangeReader", "RemoteModel", "read_remote"]

FIRST_READ_BYTES: Final = 256 << 10
LONGEST_READ_BYTES: Final = 4 << 20
MAX_KEPT: Final = 3
"""The number of reads that are kept, at most 12 MiB."""


class RangeReader(io.RawIOBase):
    """A seekable file of known size that reads with `fetch(first, end)`. For one thread."""

    def __init__(self, name: str, size_bytes: int, fetch: Callable[[int, int], bytes]) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self._fetch = fetch
        self._at = 0
        self._next_read = FIRST_READ_BYTES
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size_bytes}[whence]
        self._at = max(0, start + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, from one request or from the kept ones, so maybe fewer than `size`."""
        wanted = max(0, self.size_bytes - self._at) if size < 0 else min(size, self.size_bytes - self._at)
        if wanted <= 0:
            return b""
        start, block = self._block(wanted)
        piece = block[self._at - start : self._at - start + wanted]
        self._at += len(piece)
        return piece

    def _block(self, wanted: int) -> tuple[int, bytes]:
        """Return the offset and bytes of the kept read with the next byte, or of a new one."""
        for start, block in self._kept.items():
            if start <= self._at < start + len(block):
                return start, block
        length = min(max(self._next_read, min(wanted, LONGEST_READ_BYTES)), self.size_bytes - self._at)
        self._next_read = min(self._next_read * 2, LONGEST_READ_BYTES)
        self._kept[self._at] = block = self._fetch(self._at, self._at + length)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return self._at, block


class RemoteModel(Struct, frozen=True):
    """A model on the Hub: its header, and the names of its files after a download."""

    repo: str
    commit: str
    files: tuple[str, ...]
    size_bytes: int
    header: ModelHeader


def read_remote(
    ref: HubRef,
    hub: Hub,
    prefer: select.Prefer | None = None,
    read: Callable[[Sequence[BinaryIO]], ModelHeader] = read_headers,
) -> RemoteModel:
    """Choose the same model as a download and read its header. Raises ModelNotFound, DownloadError or ModelInvalid.

    `read` returns the header of the files.
    """
    listing = hub.listing(ref.repo, ref.revision)
    sizes = {name: file.size_bytes for name, file in listing.files.items()}
    where = f"The repository {ref.repo}"
    chosen = select.choose(sizes, quant=ref.quant, file=ref.file, prefer=prefer, where=where)
    files = [hub.open(ref.repo, name, listing.commit, sizes[name]) for name in chosen.files]
    if chosen.joined:
        files = [JoinedFile(chosen.joined, files)]
    readers = [cast("BinaryIO", RangeReader(file.title, file.size_bytes, _ranges(file))) for file in files]
    names, size_bytes = tuple(file.title for file in files), sum(file.size_bytes for file in files)
    return RemoteModel(ref.repo, listing.commit, names, size_bytes, read(readers))


def _ranges(file: WebFile) -> Callable[[int, int], bytes]:
    """Return a function that reads a range with one request. It does not retry, because a user waits for the result."""

    def fetch(first: int, end: int) -> bytes:
        try:
            return b"".join(file.read(first, end))
        except Interrupted as cause:
            raise cause.error from cause

    return fetch
