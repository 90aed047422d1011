"""Fetches the byte pieces of a model as one file. Each piece is verified, and the joined file is written directly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from worker_gguf.store.parallel_fetch import Digest, Hash
from worker_gguf.store.web import WebFile

__all__ = ["JoinedDigest", "JoinedFile"]


class JoinedFile(WebFile):
    """Several files of a web server, joined in order. A range can span several files."""

    def __init__(self, title: str, pieces: Sequence[WebFile]) -> None:
        super().__init__(title, lambda: "", sum(piece.size_bytes for piece in pieces))
        self._pieces = pieces

    def read(self, first: int, end: int, timeout_s: float = 30.0) -> Iterator[bytes]:
        begin = 0
        for piece in self._pieces:
            inside = max(first - begin, 0), min(end - begin, piece.size_bytes)
            if inside[0] < inside[1]:
                yield from piece.read(*inside, timeout_s)
            begin += piece.size_bytes


class JoinedDigest(Digest, frozen=True):
    """A digest of the digests of all pieces. The Hub has no SHA-256 of the joined file."""

    pieces: tuple[tuple[int, Digest], ...] = ()
    """The size in bytes and the digest of each piece."""

    @classmethod
    def from_pieces(cls, pieces: Iterable[tuple[int, Digest]]) -> JoinedDigest:
        pieces = tuple(pieces)
        return cls("joined", _combined(digest.hexadecimal for _, digest in pieces), pieces)

    def begin(self, size_bytes: int) -> Hash:
        return _JoinedHash(self.pieces)


class _JoinedHash:
    def __init__(self, pieces: Sequence[tuple[int, Digest]]) -> None:
        self._hashes = [(size_bytes, digest.begin(size_bytes)) for size_bytes, digest in pieces]
        self._n_bytes = 0

    def update(self, content: bytes, /) -> None:
        first, end, begin = self._n_bytes, self._n_bytes + len(content), 0
        for size_bytes, piece in self._hashes:
            inside = content[max(begin - first, 0) : max(begin + size_bytes - first, 0)]
            if begin < end and inside:
                piece.update(inside)
            begin += size_bytes
        self._n_bytes = end

    def hexdigest(self) -> str:
        return _combined(piece.hexdigest() for _, piece in self._hashes)


def _combined(digests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
