"""Images in a prompt: each row of an image takes the place of a token, and has a negative id in its place.

The ids of two rows are equal only if they are the same row of the same image. So a comparison of tokens finds a
common beginning of two prompts with images, too. Knows nothing of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

__all__ = [
    "IMAGE",
    "MOST_ROWS",
    "ImageRun",
    "ImageWork",
    "at_start_of_run",
    "in_one_run",
    "number_of",
    "row_ids",
    "row_of",
]

IMAGE = -1
"""Stands in a prompt for a whole image whose rows are not known yet. No row has this id."""
_ROW_BITS = 20
MOST_ROWS = 1 << _ROW_BITS
"""A run has fewer rows than this."""


class ImageRun(Struct, frozen=True):
    """The rows of an image, or of a part of it, at the places from `start` on in a prompt.

    If it `is_whole`, its rows see each other, and must be computed together.
    """

    start: int
    n_rows: int
    is_whole: bool = False

    @property
    def end(self) -> int:
        return self.start + self.n_rows


class ImageWork(Struct, frozen=True):
    """What was done for the images of requests: how many were encoded, in how many seconds, and how many were kept."""

    encoded: int = 0
    reused: int = 0
    seconds: float = 0.0


def row_ids(number: int, n_rows: int) -> range:
    """Return the ids of the rows of a run. `number`, from 0 on, stands for what is seen in it."""
    first = IMAGE - 1 - (number << _ROW_BITS)
    return range(first, first - n_rows, -1)


def row_of(token: int) -> int:
    """Return the place in its run of a row with this id, which is negative."""
    return (IMAGE - 1 - token) & (MOST_ROWS - 1)


def number_of(token: int) -> int:
    """Return the number of the run of a row with this id, which is negative."""
    return (IMAGE - 1 - token) >> _ROW_BITS


def at_start_of_run(tokens: Sequence[int], n: int) -> int:
    """Return `n`, or if the first `n` tokens end inside a run of rows, the number of those before it."""
    return n - row_of(tokens[n]) if n < len(tokens) and tokens[n] < 0 else n


def in_one_run(runs: Iterable[ImageRun], start: int, wanted: int) -> int:
    """Return how many of the `wanted` tokens from `start` on can be computed together.

    Tokens and rows never are. A whole run is computed at once, even if fewer tokens are wanted.
    """
    for run in runs:
        if start < run.start:
            return min(wanted, run.start - start)
        if start < run.end:
            return run.end - start if run.is_whole else min(wanted, run.end - start)
    return wanted
