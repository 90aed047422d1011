"""Tests of the search in a stream: the same is found however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_gguf.constraints.watch import Watch

TEXTS = ("<tool_call>", "[CALL]", "aab")


def found(watch: Watch, pieces: list[bytes]) -> bytes | None:
    """Return all bytes after the text that is found first, or None."""
    for at, piece in enumerate(pieces):
        expected = watch.peek(piece)
        rest = watch.feed(piece)
        assert rest == expected
        if rest is not None:
            return rest + b"".join(pieces[at + 1 :])
    return None


@given(
    st.lists(st.sampled_from(["<tool_call>", "<tool", "_call>", "[CALL]", "a", "b", "é", " "]), max_size=8), st.data()
)
def test_the_first_text_is_found_at_every_cut(parts: list[str], data: st.DataObject) -> None:
    raw = "".join(parts).encode()
    ends = [raw.find(text.encode()) + len(text) for text in TEXTS if text.encode() in raw]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert found(Watch(TEXTS), pieces) == (raw[min(ends) :] if ends else None)


@pytest.mark.parametrize(("text", "rest"), [(' \n{"name"x', b"x"), ('a{"name"', None), ('{"nam', None), ("", None)])
def test_a_text_that_counts_only_at_the_start_may_follow_whitespace_alone(text: str, rest: bytes | None) -> None:
    raw = text.encode()
    for cut in range(len(raw) + 1):
        assert found(Watch(['{"name"'], only_at_start=True), [raw[:cut], raw[cut:]]) == rest
    assert found(Watch(['{"name"'], only_at_start=True), [raw[i : i + 1] for i in range(len(raw))]) == rest


def test_without_texts_nothing_is_found() -> None:
    assert found(Watch(()), [b"anything", b""]) is None
