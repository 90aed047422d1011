"""Tests of reading lines: their numbers, names and digests, and the memory that they need."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import pytest

from worker_gguf.batch.lines import lines_of_list, read_lines


def read(content: bytes, most_bytes: int = 100) -> list[tuple[int, str, bytes | None]]:
    return [(line.number, line.name, line.raw) for line in read_lines(io.BytesIO(content), most_bytes)]


def test_blank_lines_are_no_requests_but_count_in_the_names() -> None:
    assert read(b"a\n\n  \r\nb\r\nc") == [(1, "Line 1", b"a"), (2, "Line 4", b"b"), (3, "Line 5", b"c")]


def test_an_empty_file_has_no_lines() -> None:
    assert read(b"") == read(b"\n\n") == []


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert read(b"\xef\xbb\xbfa\n") == [(1, "Line 1", b"a")]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_over_the_limit_has_no_content_and_the_next_one_is_read(end: bytes) -> None:
    assert read(b"x" * 9 + end, 8) == [(1, "Line 1", None)]
    assert read(b"x" * 3_000_000 + b"\nb\n", 8) == [(1, "Line 1", None), (2, "Line 2", b"b")]
    assert read(b"x" * 8 + end, 8) == [(1, "Line 1", b"x" * 8)]


def test_a_digest_is_that_of_the_content_not_of_the_line_break() -> None:
    def digests(content: bytes) -> list[int]:
        return [line.digest for line in read_lines(io.BytesIO(content), 4)]

    assert digests(b"ab\r\nabcdefg\r\n") == digests(b"\n\nab\nabcdefg")
    assert len(set(digests(b"ab\nac\nabcdefg\nabcdefh"))) == 4


def test_a_list_has_the_lines_of_a_file_with_it() -> None:
    (first, second) = lines_of_list([{"a": 1}, "x" * 100], 50)
    assert (first.number, first.name, first.raw) == (1, "Request 1", b'{"a": 1}')
    assert (second.number, second.name, second.raw) == (2, "Request 2", None)


def test_a_long_file_needs_the_memory_of_one_line(tmp_path: Path) -> None:
    def peak_bytes(n_lines: int) -> int:
        path = tmp_path / "in.jsonl"
        path.write_bytes(b"x" * 99 + b"\n" + (b"y" * 99 + b"\n") * (n_lines - 1))
        tracemalloc.start()
        try:
            with path.open("rb") as file:
                assert sum(1 for _ in read_lines(file, 1000)) == n_lines
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_bytes(100_000) < peak_bytes(1_000) + 20_000
