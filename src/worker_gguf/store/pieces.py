"""Models that were uploaded as byte pieces, such as `m.Q8_0.gguf.part1of2`. Joined in order, they form one .gguf file.

Unlike the parts of a split model, which llama.cpp reads one by one, a single piece is not a GGUF file.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["Piece", "piece_of"]

_PIECE: Final = re.compile(r"(?P<joined>.+\.gguf)\.part(?P<number>\d{1,3})of(?P<total>\d{1,3})", re.IGNORECASE)


class Piece(NamedTuple):
    """One piece. `joined` is the name of the file that the pieces form."""

    joined: str
    number: int
    total: int


def piece_of(name: str) -> Piece | None:
    """Return the number and the count of the piece that a file name denotes, or None for any other name."""
    found = _PIECE.fullmatch(name)
    return Piece(found["joined"], int(found["number"]), int(found["total"])) if found else None
