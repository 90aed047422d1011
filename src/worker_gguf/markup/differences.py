"""Compares texts and cuts them at the marks that a chat template writes. Pure functions of texts.

A mark is a text such as `<tool_call>` or `[ARGS]`. Two different marks often begin alike, as `</tool_call>` and
`</tool_calls>` do, so a common prefix of two texts may end inside a mark. It is cut back to a boundary: beside
whitespace, before an opening bracket, after a closing one. The brackets are those of Unicode, and a text with other
marks is cut where it differs.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "Repetition",
    "common_prefix",
    "common_suffix",
    "counterpart",
    "end_of_turn",
    "first_mark",
    "has_bracket",
    "is_boundary",
    "is_mark",
    "is_rest",
    "last_mark",
    "shared_start",
    "split_repetition",
]

# Brackets of published marks that are no brackets in Unicode.
_OPENING, _CLOSING = "<◁", ">▷"
# No mark has more characters. A longer text is something else, such as a list of tools.
_LONGEST = 160


class Repetition(NamedTuple):
    """The parts of `outer_start start X end separator start X end outer_end`."""

    outer_start: str
    start: str
    end: str
    separator: str
    outer_end: str


def is_boundary(text: str, at: int) -> bool:
    """Return whether no mark or word goes on at this position."""
    if at <= 0 or at >= len(text):
        return True
    before, after = text[at - 1], text[at]
    if before.isspace() or after.isspace():
        return True
    return before != after and (_opens(after) or _closes(before))


def common_prefix(one: str, other: str) -> str:
    """Return the common prefix, up to a boundary in both texts."""
    n = _n_common(one, other)
    while not (is_boundary(one, n) and is_boundary(other, n)):
        n -= 1
    return one[:n]


def common_suffix(one: str, other: str) -> str:
    """Return the common suffix, from a boundary in both texts."""
    n = _n_common(one[::-1], other[::-1])
    while not (is_boundary(one, len(one) - n) and is_boundary(other, len(other) - n)):
        n -= 1
    return one[len(one) - n :]


def split_repetition(before: str, between: str, after: str) -> Repetition:
    """Find the parts from the texts before the first X, between two of them and after the last one.

    Whitespace around a part belongs to the separator or to the outer parts.
    """
    n_end, n_start = _n_common(between, after), _n_common(between[::-1], before[::-1])
    if n_end + n_start > len(between):
        n_end = _best_cut(before, between, after, len(between) - n_start, n_end)
        n_start = len(between) - n_end
    else:
        while n_end and n_end < len(after) and not (is_boundary(between, n_end) and is_boundary(after, n_end)):
            n_end -= 1
        while n_start and n_start < len(before) and not _starts_well(before, between, n_start):
            n_start -= 1
    end, start = after[:n_end].rstrip(), before[len(before) - n_start :].lstrip()
    return Repetition(
        outer_start=before[: len(before) - len(start)],
        start=start,
        end=end,
        separator=between[len(end) : len(between) - len(start)],
        outer_end=after[len(end) :],
    )


def end_of_turn(text: str, plain: str, opening: str) -> int:
    """Return where the end of the turn begins in `text`, which follows a call.

    `plain` follows the text of an answer, and `opening` the text of the user. The end of a turn is what both turns of
    the assistant end with, or, if other messages follow them, what both have. The turn of a user often ends so, too.
    """
    end = common_suffix(text, plain)
    own = next((end[n:] for n in range(len(end)) if opening.startswith(end[n:]) and end[n:].strip()), end).strip()
    if own:
        return text.index(own)
    plain = plain[:_LONGEST]
    for start in _boundaries(plain):
        for stop in reversed([stop for stop in _boundaries(plain) if stop > start]):
            mark = plain[start:stop].strip()
            if any(map(str.isalnum, mark)) and mark in text:
                return text.index(mark)
    return len(text)


def has_bracket(text: str) -> bool:
    """Return whether a text has a bracket of any kind."""
    return any(_opens(character) or _closes(character) for character in text)


def is_rest(text: str) -> bool:
    """Return whether a text begins with a closing bracket, so that it goes on with a mark."""
    return _closes(text[:1] or " ")


def is_mark(text: str) -> bool:
    """Return whether a text ends with a closing bracket, so that what follows is no part of a mark."""
    return len(text) <= _LONGEST and _closes(text.rstrip()[-1:] or " ")


def last_mark(text: str) -> str:
    """Return the text from its last opening bracket that can begin a mark."""
    starts = [at for at in range(len(text)) if _opens(text[at]) and is_boundary(text, at)]
    return text[starts[-1] :] if starts else text


def first_mark(text: str) -> str:
    """Return the text up to its second opening bracket that can begin a mark."""
    starts = [at for at in range(1, len(text)) if _opens(text[at]) and is_boundary(text, at)]
    return text[: starts[0]] if starts else text


def counterpart(end: str, text: str) -> str:
    """Return the mark in `text` that belongs to the mark `end`, such as `<think>` to `</think>`; "" if none does.

    It begins with the same character and shares the longest text with `end`, and is the last such mark.
    """
    mark = end.strip()
    if not mark or len(mark) > _LONGEST:
        return ""
    for n in range(len(mark), 2, -1):
        for at in range(len(mark) - n + 1):
            found = text.rfind(mark[at : at + n])
            start = text.rfind(mark[0], 0, found + 1)
            if found >= 0 and start >= 0 and text[start : found + n] != mark and mark[at : at + n].strip(mark[-1]):
                return text[start : _mark_end(text, found + n, mark[-1])]
    return ""


def _mark_end(text: str, at: int, closing: str) -> int:
    """Return the end of the mark that goes on at a position, with the whitespace after it."""
    end = at if text[at - 1] == closing else text.find(closing, at) + 1 or len(text)
    while end < len(text) and text[end].isspace():
        end += 1
    return end


def _best_cut(before: str, between: str, after: str, first: int, last: int) -> int:
    """Choose where the end of one X ends and the start of the next begins, if several positions are possible.

    Whitespace between two marks is the best sign. Else the marks that open things begin alike.
    """
    cuts = [
        cut
        for cut in range(first, last + 1)
        if (cut == len(after) or (is_boundary(between, cut) and is_boundary(after, cut)))
        and (cut == first or _starts_well(before, between, len(between) - cut))
    ]

    def likeness(cut: int) -> tuple[bool, int]:
        at_space = between[cut - 1 : cut].isspace() or between[cut : cut + 1].isspace()
        return at_space, _n_common(between[cut:].lstrip(), before.lstrip())

    return max(cuts or range(first, last + 1), key=likeness)


def _starts_well(before: str, between: str, n_start: int) -> bool:
    return is_boundary(before, len(before) - n_start) and is_boundary(between, len(between) - n_start)


def _boundaries(text: str) -> Iterator[int]:
    return (at for at in range(len(text) + 1) if is_boundary(text, at))


def shared_start(one: str, other: str) -> str:
    """Return the common prefix, wherever it ends."""
    return one[: _n_common(one, other)]


def _n_common(one: str, other: str) -> int:
    shorter = min(len(one), len(other))
    return next((n for n in range(shorter) if one[n] != other[n]), shorter)


def _opens(character: str) -> bool:
    return character in _OPENING or unicodedata.category(character) in ("Ps", "Pi")


def _closes(character: str) -> bool:
    return character in _CLOSING or unicodedata.category(character) in ("Pe", "Pf")
