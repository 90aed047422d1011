"""Reads the lines of a file of requests one by one, so that a file of any length needs the memory of one line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import BinaryIO

from msgspec import Struct

__all__ = ["Line", "lines_of_list", "read_lines"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors put it before the first line
_DIGEST_BYTES = 8
_REST_BYTES = 1 << 20


class Line(Struct, frozen=True):
    """A line that is not blank.

    `number` counts these lines from 1. `name` is the place of the line for people, and counts blank lines too. `raw` is
    its content without white space around it, or None if it is longer than the limit. `digest` is a hash of the
    content.
    """

    number: int
    name: str
    raw: bytes | None
    digest: int


def read_lines(file: BinaryIO, most_bytes: int) -> Iterator[Line]:
    """Yield the lines of a file from its beginning. A line over `most_bytes` is skipped through and has no content."""
    file.seek(0)
    number = place = 0
    while piece := file.readline(most_bytes + len(b"\r\n")):
        place += 1
        raw = (piece.removeprefix(_BYTE_ORDER_MARK) if place == 1 else piece).strip()
        if len(piece.rstrip(b"\r\n")) > most_bytes:
            number += 1
            yield Line(number, f"Line {place}", None, _digest_to_the_end(file, piece))
        elif raw:
            number += 1
            yield Line(number, f"Line {place}", raw, _digest(raw))


def lines_of_list(requests: Iterable[object], most_bytes: int) -> Iterator[Line]:
    """Yield the requests of a list as the lines of a file that has them."""
    for number, request in enumerate(requests, 1):
        raw = json.dumps(request).encode()
        yield Line(number, f"Request {number}", raw if len(raw) <= most_bytes else None, _digest(raw))


def _digest(*pieces: bytes) -> int:
    return int.from_bytes(blake2b(b"".join(pieces), digest_size=_DIGEST_BYTES).digest())


def _digest_to_the_end(file: BinaryIO, piece: bytes) -> int:
    """Read the rest of a line and return the digest of the whole line."""
    hashed = blake2b(digest_size=_DIGEST_BYTES)
    while piece:
        hashed.update(piece.rstrip(b"\r\n"))
        if piece.endswith(b"\n"):
            break
        piece = file.readline(_REST_BYTES)
    return int.from_bytes(hashed.digest())
