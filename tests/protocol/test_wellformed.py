"""Tests that a body that is not a sound JSON object is a 400."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest
from worker_gguf.protocol.wellformed import MAX_DEPTH, MAX_FIELDS, MAX_VALUES, read_json, read_object


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b"[" * 200_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"a": 1} x',
    ],
)
def test_no_json(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_json(raw)


def test_json() -> None:
    assert read_json('{"a": ["ş", 1.5, null]}'.encode()) == {"a": ["ş", 1.5, None]}


@pytest.mark.parametrize("body", [None, [], "x", 5, True])
def test_a_body_must_be_an_object(body: Any) -> None:
    with pytest.raises(InvalidRequest, match="object"):
        read_object(body)


@pytest.mark.parametrize("value", ["\ud800", ["\ud800"], {"\ud800": 1}, {"a": [{"b": "x\udfff"}]}])
def test_unpaired_surrogates_are_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="surrogate") as refused:
        read_object({"field": value})
    assert refused.value.param == "field"


def test_a_name_must_be_text() -> None:
    with pytest.raises(InvalidRequest):
        read_object({"\ud800": 1})
    with pytest.raises(InvalidRequest):
        read_object({5: 1})


def test_a_number_too_big_for_a_float_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="finite"):
        read_object(read_json(b'{"field": {"a": 1e999}}'))


def test_depth_is_bounded() -> None:
    # The innermost list is one of integers, which is not looked into.
    assert read_object({"field": nested(MAX_DEPTH)})
    with pytest.raises(InvalidRequest, match="deep") as refused:
        read_object({"field": nested(MAX_DEPTH + 1)})
    assert refused.value.param == "field"


def test_null_fields_are_left_out() -> None:
    assert read_object({"a": None, "b": 0}) == {"b": 0}


def test_the_number_of_values_is_bounded_but_not_of_tokens() -> None:
    assert read_object({"field": [list(range(MAX_VALUES)), list(range(MAX_VALUES))]})
    big: list[Any] = [[[]] * MAX_VALUES, {str(number): 1 for number in range(MAX_VALUES)}, [0.5] * MAX_VALUES]
    for many in big:
        assert read_object({"field": many})
        with pytest.raises(InvalidRequest, match="values"):
            read_object({"field": [many]})


def test_a_long_name_is_shortened_in_the_error() -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_object({"x" * 1000: "\ud800"})
    assert refused.value.param == "x" * 64


def test_the_number_of_fields_is_bounded() -> None:
    names = [str(number) for number in range(MAX_FIELDS)]
    assert read_object(dict.fromkeys(names, 1))
    with pytest.raises(InvalidRequest, match="fields"):
        read_object(dict.fromkeys([*names, "one more"], 1))


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="twice"):
        read_json(b'{"a": {"b": 1, "b": 2}}')
