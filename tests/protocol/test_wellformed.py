"""What is no JSON object worth reading is a 400."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest
from worker_gguf.protocol.wellformed import MAX_DEPTH, read_json, read_object


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
    assert read_object({"field": nested(MAX_DEPTH - 1)})
    with pytest.raises(InvalidRequest, match="deep") as refused:
        read_object({"field": nested(MAX_DEPTH)})
    assert refused.value.param == "field"


def test_null_fields_are_left_out() -> None:
    assert read_object({"a": None, "b": 0}) == {"b": 0}
