"""Facts of the way from pieces to text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker_gguf.engine.detokenizer import Detokenizer


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


def test_what_only_looks_like_a_stop_text_comes_out_after_all() -> None:
    detokenizer = Detokenizer(("END",))
    assert detokenizer.push(b"an EN") == "an "
    assert detokenizer.push(b"TRY") == "ENTRY"
    assert detokenizer.push(b" E") == " "
    assert detokenizer.flush() == "E"


def test_of_several_stop_texts_the_first_in_the_answer_counts() -> None:
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
