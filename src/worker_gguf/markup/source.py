"""The text of an answer as it comes, read by generators that wait for more of it.

A reader is written as if it had the whole text: it looks at the next character, finds a marker, takes a token. Where
the text that is there does not suffice to decide, it yields, and goes on when there is more. So a parser is a function
that calls functions, and yet takes its text in any pieces. Text that was read is let go, unless it is kept.

White space within and around a marker counts for nothing: models leave out and add line breaks. Only a marker that is
white space alone is taken as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from functools import lru_cache
from typing import NamedTuple, TypeVar

__all__ = ["NOWHERE", "Markers", "Source", "Wait", "markers"]

T = TypeVar("T")
Wait = Generator[None, None, T]

NOWHERE = -1
_SPACE = re.compile(r"\s*")
# Bounds for the white space within a marker and before what is looked ahead for: no text is read again and again.
_MOST_INNER_SPACE = 16
_SOME_SPACE = rf"\s{{0,{_MOST_INNER_SPACE}}}"
_MOST_SPACE = 256


class Hit(NamedTuple):
    """The place and the number of a marker. With NOWHERE, the text from `start` on may still become one."""

    start: int
    end: int
    number: int


def _elements(text: str) -> list[str]:
    """Return a regular expression for each character of a marker, and one for each of its runs of white space."""
    if not text.strip():
        return [re.escape(character) for character in text]
    return [_SOME_SPACE if part.isspace() else re.escape(part) for part in re.findall(r"\s+|\S", text.strip())]


def _beginnings(elements: list[str]) -> str:
    """Return a regular expression of the marker's beginnings, without the whole marker."""
    expression = ""
    for element in reversed(elements[:-1]):
        expression = f"{element}(?:{expression})?" if expression else element
    return expression


def _most_characters(elements: list[str]) -> int:
    return sum(_MOST_INNER_SPACE if element == _SOME_SPACE else 1 for element in elements)


class Markers:
    """A set of literal texts to look for, numbered from 0. Empty ones are never found.

    Where two begin at the same place, the longer one counts. `lead` may come once before each of them and is then part
    of it.
    """

    def __init__(self, texts: Iterable[str], lead: str = "") -> None:
        self.texts = tuple(texts)
        spelt = {number: _elements(text) for number, text in enumerate(self.texts) if text}
        optional_lead = f"(?:{re.escape(lead)})?" if lead else ""
        by_length = sorted(spelt, key=lambda number: -len(spelt[number]))
        beginnings = [expression for number in by_length if (expression := _beginnings(spelt[number]))]
        wholes = (f"(?P<m{number}>{''.join(spelt[number])})" for number in by_length)
        unfinished = f"{optional_lead}(?:{'|'.join(beginnings)})" if beginnings else "(?!)"
        if lead:
            unfinished = f"(?:{unfinished}|{re.escape(lead)})"
        self._whole = re.compile(f"{optional_lead}(?:{'|'.join(wholes) or '(?!)'})")
        self._unfinished = re.compile(rf"(?:{unfinished})\Z")
        firsts = {elements[0] for elements in spelt.values()} | ({re.escape(lead)} if lead else set())
        # The most characters that a beginning can have.
        self._longest = len(lead) + max((_most_characters(elements) for elements in spelt.values()), default=0)
        self._first = re.compile("|".join(sorted(firsts)) or "(?!)")

    def find(self, text: str, at: int, ended: bool) -> Hit:
        """Return the first marker from `at` on, or where one may begin that is not complete yet."""
        first = self._first.search(text, at)
        if first is None:
            return Hit(len(text), len(text), NOWHERE)
        whole = self._whole.search(text, first.start())
        if not ended and (whole is None or len(text) - whole.start() < self._longest):
            unfinished = self._unfinished.search(text, max(first.start(), len(text) - self._longest))
            if unfinished is not None and (whole is None or unfinished.start() <= whole.start()):
                return Hit(unfinished.start(), unfinished.start(), NOWHERE)
        if whole is None:
            return Hit(len(text), len(text), NOWHERE)
        return Hit(whole.start(), whole.end(), _number(whole))

    def match(self, text: str, at: int, ended: bool) -> Hit | None:
        """Return the marker at `at`; None if there is none; with NOWHERE if one may begin there."""
        if not ended and self._unfinished.match(text, at):
            return Hit(at, at, NOWHERE)
        whole = self._whole.match(text, at)
        return None if whole is None else Hit(at, whole.end(), _number(whole))


@lru_cache(maxsize=1024)
def markers(*texts: str, lead: str = "") -> Markers:
    """Return the set of these texts. For texts of a format: each set is made once, since that takes a millisecond."""
    return Markers(texts, lead)


def _number(match: re.Match[str]) -> int:
    return int((match.lastgroup or "m0")[1:])


class Source:
    """The text that was not read yet, from `at` on in `text`. `ended` tells that no more will come."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self._kept: list[str] | None = None
        self._kept_from = 0
        self._recorded: list[str] | None = None

    def add(self, text: str) -> None:
        """Take the next piece, and let go what was read."""
        if self._recorded is not None:
            self._recorded.append(text)
        if self.at:
            if self._kept is not None:
                self._kept.append(self.text[self._kept_from : self.at])
                self._kept_from = 0
            self.text = self.text[self.at :] + text
            self.at = 0
        else:
            self.text += text

    def keep(self) -> None:
        """Keep what is read from here on, so that `rewind` can return to this place."""
        self._kept = []
        self._kept_from = self.at

    def forget(self) -> None:
        """Let go what was kept."""
        self._kept = None

    def rewind(self) -> None:
        """Return to where `keep` was called; without a call of it, do nothing."""
        if self._kept is not None:
            self.text = "".join(self._kept) + self.text[self._kept_from :]
            self.at = 0
            self._kept = None

    def record(self) -> None:
        """Record what is read from here on, until `end_record`."""
        self._recorded = [self.text[self.at :]]

    def recorded(self) -> str:
        """Return what was read since `record`."""
        text = "".join(self._recorded or ())
        return text[: len(text) - len(self.text) + self.at]

    def end_record(self) -> None:
        self._recorded = None

    def unread(self, text: str) -> None:
        """Put back what was just read. Not while text is kept."""
        if self.text.endswith(text, 0, self.at):
            self.at -= len(text)
        else:
            self.text = text + self.text[self.at :]
            self.at = 0

    def is_over(self) -> bool:
        """Whether nothing but white space is left and no more will come."""
        return self.ended and not self.text[self.at :].strip()

    def more(self) -> Wait[bool]:
        """Wait for more text. False if none will come."""
        if self.ended:
            return False
        yield
        return True

    def peek(self) -> Wait[str]:
        """Return the next character without reading it, "" at the end."""
        while self.at >= len(self.text):
            if not (yield from self.more()):
                return ""
        return self.text[self.at]

    def skip_space(self) -> Wait[str]:
        """Read white space, and return the character after it without reading it, "" at the end."""
        while True:
            self.at = self._end_of(_SPACE)
            if self.at < len(self.text):
                return self.text[self.at]
            if not (yield from self.more()):
                return ""

    def run(self, characters: re.Pattern[str]) -> Wait[str]:
        """Read as many characters as match; `characters` matches a run of any length, also none."""
        pieces: list[str] = []
        yield from self.pour(characters, pieces.append)
        return "".join(pieces)

    def pour(self, characters: re.Pattern[str], write: Callable[[str], object]) -> Wait[None]:
        """Read as many characters as match, and write them as they come."""
        while True:
            end = self._end_of(characters)
            if end > self.at:
                write(self.text[self.at : end])
            self.at = end
            if end < len(self.text) or not (yield from self.more()):
                return

    def take(self, wanted: Markers) -> Wait[int]:
        """Read a marker if one is next, and return its number, else NOWHERE."""
        while True:
            hit = wanted.match(self.text, self.at, self.ended)
            if hit is not None and hit.number != NOWHERE:
                self.at = hit.end
                return hit.number
            if hit is None and self.at < len(self.text):
                return NOWHERE
            if not (yield from self.more()):
                return NOWHERE

    def until(self, wanted: Markers, write: Callable[[str], object]) -> Wait[Hit]:
        """Write the text before the next marker, read the marker too and return it; NOWHERE at the end."""
        while True:
            hit = wanted.find(self.text, self.at, self.ended)
            if hit.start > self.at:
                write(self.text[self.at : hit.start])
            self.at = hit.end
            if hit.number != NOWHERE:
                return hit
            if not (yield from self.more()):
                return hit

    def follows(self, wanted: Markers) -> Wait[int]:
        """Return the number of the marker that comes next, after white space, without reading it; NOWHERE if none."""
        while True:
            at = self._end_of(_SPACE)
            if at - self.at > _MOST_SPACE:
                return NOWHERE
            if at < len(self.text):
                hit = wanted.match(self.text, at, self.ended)
                if hit is None or hit.number != NOWHERE:
                    return NOWHERE if hit is None else hit.number
            if not (yield from self.more()):
                return NOWHERE

    def _end_of(self, characters: re.Pattern[str]) -> int:
        match = characters.match(self.text, self.at)
        return self.at if match is None else match.end()
