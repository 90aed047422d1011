"""Tests of the header that names ignored parameters, which contains text from clients."""

from __future__ import annotations

from worker_gguf.protocol.screening import MAX_HEADER, ignored_header


def test_names_are_listed() -> None:
    assert ignored_header(("store", "user")) == "store, user"


def test_no_name_can_add_a_header() -> None:
    assert ignored_header(("a\r\nSet-Cookie: x", "ş", "a, b")) == "a%0D%0ASet-Cookie%3A%20x, %C5%9F, a%2C%20b"


def test_the_header_is_bounded() -> None:
    header = ignored_header([f"{number:03}" * 100 for number in range(1000)])
    assert len(header) <= MAX_HEADER + len(", ...")
    assert header.endswith(", ...")
