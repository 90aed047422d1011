"""Tests of the names of ignored parameters, which clients choose, and of the header that lists them."""

from __future__ import annotations

import pytest

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.defaults import Defaults
from worker_gguf.protocol.pooling.bodies import ScoreBody
from worker_gguf.protocol.screening import MAX_HEADER, MAX_IGNORED, effectless, ignored_header, unknown_names


def test_names_are_listed() -> None:
    assert ignored_header(("store", "user")) == "store, user"


def test_no_name_can_add_a_header() -> None:
    assert ignored_header(("a\r\nSet-Cookie: x", "ş", "a, b")) == "a%0D%0ASet-Cookie%3A%20x, %C5%9F, a%2C%20b"


def test_the_header_is_bounded() -> None:
    header = ignored_header([f"{number:03}" * 100 for number in range(1000)])
    assert len(header) <= MAX_HEADER + len(", ...")
    assert header.endswith(", ...")


def test_a_name_without_effect_is_listed_once_and_thousands_of_them_are_not() -> None:
    assert effectless(["b", "a", "b"], Defaults()) == ("a", "b")
    names = effectless((f"input.{number}" for number in range(60_000)), Defaults())
    assert len(names) == MAX_IGNORED + 1
    assert names[-1] == "..."
    assert ignored_header(names).endswith("...")


def test_fields_that_a_body_does_not_have_are_named_or_refused() -> None:
    assert unknown_names(ScoreBody, {"text_1": "a", "x": 1}, Defaults()) == ("x",)
    with pytest.raises(UnsupportedParameter, match="'x' changes nothing here"):
        unknown_names(ScoreBody, {"text_1": "a", "x": 1}, Defaults(strict=True))
