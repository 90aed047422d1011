"""Tests of reading JSON as it comes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.markup.test_source import read
from worker_gguf.markup.json_text import in_quotes, read_json
from worker_gguf.markup.source import Source, Wait

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def passed_on(text: str) -> tuple[str, str | None, str]:
    """Return what is written of a value, its last character, and the text that is left, for a text cut anywhere."""

    def reader(source: Source) -> Wait[tuple[str, str | None, str]]:
        written: list[str] = []
        last = yield from read_json(source, written.append)
        while (yield from source.more()):
            pass
        return "".join(written), last, source.text[source.at :]

    whole = read(reader, [text])
    assert read(reader, list(text)) == whole
    return whole


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_the_text_of_a_value_is_passed_on_as_it_is(value: object, indent: int | None, ensure_ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)
    assert passed_on(text + "\n</end>") == (text[:-1], text[-1], "\n</end>")


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ('"one\ntwo\t"', '"one\\ntwo\\t"'),
        ("[1, 2, ]", "[1, 2 ]"),
        ('{"a": True, "b": [None,False],}', '{"a": true, "b": [null,false]}'),
        (r'"C:\dir \u12 \x41"', r'"C:\\dir \\u12 \\x41"'),
    ],
)
def test_what_has_one_meaning_only_is_mended(text: str, mended: str) -> None:
    written, last, _ = passed_on(text)
    assert written + (last or "") == mended
    json.loads(mended)


@pytest.mark.parametrize(
    "text", ["", "[1", '"a', '{"a"', '{"a":', '"\\', '"\\u00', "[1 2]", "{1: 2}", "[,]", "-", "[1}"]
)
def test_what_is_no_value_is_broken(text: str) -> None:
    assert passed_on(text)[1] is None


@given(st.text())
def test_a_text_in_quotes_is_its_json(text: str) -> None:
    assert json.loads(f'"{in_quotes(text)}"') == text
