"""Tests of reading a text that comes in pieces: markers, runs of characters, and what is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

from worker_gguf.markup.source import NOWHERE, Markers, Source, Wait, markers

T = TypeVar("T")


def read(reader: Callable[[Source], Wait[T]], pieces: Sequence[str]) -> T:
    """Run a reader on a text that comes in these pieces."""
    source = Source()
    steps = reader(source)
    try:
        for piece in pieces:
            source.add(piece)
            next(steps)
        source.ended = True
        while True:
            next(steps)
    except StopIteration as stop:
        result: T = stop.value
        return result


def found(texts: Sequence[str], text: str, lead: str = "") -> tuple[list[str], int, str]:
    """Return the text before the first marker, the marker's number and the text after it, for a text cut anywhere."""

    def reader(source: Source) -> Wait[tuple[str, int, str]]:
        before: list[str] = []
        hit = yield from source.until(Markers(texts, lead), before.append)
        rest = yield from source.run(re.compile(r".*", re.DOTALL))
        return "".join(before), hit.number, rest

    results = {read(reader, [text[:cut], text[cut:]]) for cut in range(len(text) + 1)} | {read(reader, list(text))}
    assert len(results) == 1
    before, number, rest = results.pop()
    return [before], number, rest


@pytest.mark.parametrize(
    ("texts", "text", "before", "number", "after"),
    [
        (["<a>"], "x<a>y", "x", 0, "y"),
        (["<a>"], "x<<a>y", "x<", 0, "y"),
        (["<a>", "<b>"], "x<b><a>", "x", 1, "<a>"),
        (["<a>"], "x<a", "x<a", NOWHERE, ""),
        (["", "<a>"], "<a>", "", 1, ""),
        (["<a>", "<a><b>"], "x<a><b>y", "x", 1, "y"),
        (["<a>", "<a><b>"], "x<a><c>", "x", 0, "<c>"),
        (["aab"], "aaab", "a", 0, ""),
        (["]<x>y", "<x>"], "]<x>z", "]", 1, "z"),
    ],
)
def test_the_first_marker_is_found_wherever_the_text_is_cut(
    texts: list[str], text: str, before: str, number: int, after: str
) -> None:
    assert found(texts, text) == ([before], number, after)


def test_white_space_within_and_around_a_marker_does_not_count() -> None:
    assert found(["<a>\n<b>\n"], "x<a><b>\n") == (["x"], 0, "\n")
    assert found(["<a>\n<b>\n"], "x<a> \n <b>") == (["x"], 0, "")
    assert found(["\n"], "x y\nz") == (["x y"], 0, "z")


def test_a_lead_may_come_once_before_a_marker() -> None:
    assert found(["</v>"], "x\n</v>y", lead="\n") == (["x"], 0, "y")
    assert found(["</v>"], "x\n\n</v>y", lead="\n") == (["x\n"], 0, "y")
    assert found(["</v>"], "x</v>y", lead="\n") == (["x"], 0, "y")


def test_what_follows_is_looked_at_and_not_read() -> None:
    def reader(source: Source) -> Wait[tuple[int, int, str]]:
        first = yield from source.follows(markers("<b>", "<a>"))
        second = yield from source.follows(markers("<c>"))
        return first, second, (yield from source.run(re.compile(r".*", re.DOTALL)))

    assert read(reader, list(" \n<a>")) == (1, NOWHERE, " \n<a>")
    assert read(reader, ["  "]) == (NOWHERE, NOWHERE, "  ")


def test_a_marker_is_taken_only_if_it_is_next() -> None:
    def reader(source: Source) -> Wait[tuple[int, int]]:
        return (yield from source.take(markers("<a>"))), (yield from source.take(markers("<b>")))

    assert read(reader, list("<b>")) == (NOWHERE, 0)
    assert read(reader, ["<"]) == (NOWHERE, NOWHERE)


def test_kept_text_is_read_again_after_a_rewind() -> None:
    def reader(source: Source) -> Wait[tuple[str, str]]:
        source.at += 1
        source.keep()
        first = yield from source.run(re.compile("a*"))
        source.rewind()
        return first, (yield from source.run(re.compile(".*")))

    assert read(reader, list("xaaab")) == ("aaa", "aaab")
    assert read(reader, ["xaa", "ab"]) == ("aaa", "aaab")


def test_text_that_is_put_back_comes_again() -> None:
    def reader(source: Source) -> Wait[str]:
        yield from source.run(re.compile("a*"))
        source.unread("aa")
        return (yield from source.run(re.compile(".*")))

    assert read(reader, ["aaab"]) == read(reader, list("aaab")) == "aab"


def test_a_set_of_the_same_texts_is_made_once() -> None:
    assert markers("<a>", "<b>") is markers("<a>", "<b>")
