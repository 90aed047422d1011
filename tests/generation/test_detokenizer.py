"""Tests of the conversion of token pieces to text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_gguf.generation.detokenizer import Detokenizer


def text_of(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[str, str | None]:
    detokenizer = Detokenizer(stops)
    text = ""
    for piece in pieces:
        text += detokenizer.push(piece)
        if detokenizer.has_stopped():
            return text, detokenizer.stop
    return text + detokenizer.flush(), None


def test_a_character_split_over_tokens_comes_out_whole() -> None:
    detokenizer = Detokenizer()
    assert [detokenizer.push(bytes([byte])) for byte in "ğ🦙".encode()] == ["", "ğ", "", "", "", "🦙"]


def test_a_character_that_never_ends_becomes_a_replacement() -> None:
    assert text_of([b"a", "ğ".encode()[:1]]) == ("a�", None)


def test_a_stop_text_ends_the_answer_and_is_left_out() -> None:
    assert text_of([b"one", b" two", b" three"], (" two",)) == ("one", " two")


def test_a_stop_text_over_token_borders_is_found() -> None:
    assert text_of([b"abc", b"EN", b"D", b"xyz"], ("END",)) == ("abc", "END")


def test_a_stop_text_over_a_split_character_is_found() -> None:
    first, second = "ğ".encode()[:1], "ğ".encode()[1:]
    assert text_of([b"da", first, second, b"x"], ("ağ",)) == ("d", "ağ")


def test_text_that_only_looks_like_a_stop_text_is_released() -> None:
    detokenizer = Detokenizer(("END",))
    assert detokenizer.push(b"an EN") == "an "
    assert detokenizer.push(b"TRY") == "ENTRY"
    assert detokenizer.push(b" E") == " "
    assert detokenizer.flush() == "E"


def test_the_stop_text_that_comes_first_in_the_answer_ends_it() -> None:
    assert text_of([b"a b c d"], ("d", "b")) == ("a ", "b")


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=4), max_size=4), st.data())
def test_cutting_anywhere_gives_the_text_up_to_the_first_stop(text: str, stops: list[str], data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    got, stop = text_of(pieces, tuple(stops))
    if stop is None:
        assert got == text
        assert not any(stop in text for stop in stops)
    else:
        assert text.startswith(got + stop)


def test_each_of_many_stop_texts_ends_the_answer() -> None:
    stops = tuple(f"\nName{number:03}:" for number in range(256))
    for stop in stops:
        assert text_of([b"Hello\n", b"Na", f"{stop[3:]} more".encode()], stops) == ("Hello", stop)


def test_if_a_stop_text_begins_with_another_the_shorter_one_ends_the_answer() -> None:
    assert text_of([b"one abc"], ("abc", "ab")) == ("one ", "ab")


def test_a_stop_text_inside_the_beginning_of_a_longer_one_is_found() -> None:
    assert text_of([b"x abcd", b"e"], ("abcdefgh", "cd")) == ("x ab", "cd")


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=12))
def test_the_text_ends_where_a_plain_search_finds_the_first_stop_text(text: str, stops: list[str]) -> None:
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert text_of([text.encode()], tuple(stops))[0] == (text[: min(ends)] if ends else text)


def test_the_time_of_a_token_does_not_grow_with_the_number_of_stop_texts() -> None:
    """Counts comparisons of texts, because times on a busy machine vary too much."""

    class Counted(str):
        n = 0

        def __lt__(self, other: str) -> bool:
            Counted.n += 1
            return str.__lt__(self, other)

        __gt__ = __lt__  # bisect_left and bisect_right compare in different directions

    counts = []
    for n_stops in (4, 256):
        detokenizer = Detokenizer(tuple(f"\nName{number:03}:" for number in range(n_stops)))
        detokenizer._stops = [Counted(stop) for stop in detokenizer._stops]
        Counted.n = 0
        detokenizer.push(b"Hello\nName and more")
        counts.append(Counted.n)
    assert counts[1] <= counts[0] + 2 * 6


@pytest.mark.parametrize("size", range(1, len("one two three") + 1))
def test_a_stop_text_that_is_kept_is_the_end_of_the_text(size: int) -> None:
    detokenizer = Detokenizer(("two",), keeps_stop=True)
    text, raw = "", b"one two three"
    while not detokenizer.has_stopped():
        text, raw = text + detokenizer.push(raw[:size]), raw[size:]
    assert text + detokenizer.flush() == "one two"
    assert detokenizer.stop == "two"
