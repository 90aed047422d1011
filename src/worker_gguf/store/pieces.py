"""Names of models that were uploaded as byte pieces, `m.Q8_0.gguf.part1of2`. Joined in order, they are one .gguf file.

A single piece is not a GGUF file, unlike the parts of a split model, which llama.cpp reads one by one.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["Piece", "piece_of"]

_PIECE: Final = re.compile(r"(?P<joined>.+\.gguf)\.part(?P<number>\d{1,3})of(?P<total>\d{1,3})", re.IGNORECASE)


class Piece(NamedTuple):
    """One byte piece. `joined` is the name of the joined file."""

    joined: str
    number: int
    total: int


def piece_of(name: str) -> Piece | None:
    """Return the piece that a file name denotes, or None for any other name."""
    found = _PIECE.fullmatch(name)
    return Piece(found["joined"], int(found["number"]), int(found["total"])) if found else None
