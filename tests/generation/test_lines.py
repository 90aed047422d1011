"""Tests of answers that end at a line."""

from __future__ import annotations

import pytest

from worker_gguf.engine.request import LineLimits
from worker_gguf.generation.lines import LineWatch


def read(limits: LineLimits, *texts: str, seconds: float = 0.0) -> tuple[str, bool]:
    """Return what is left of texts that come one after the other, and whether the answer ended."""
    watch, kept = LineWatch(limits), ""
    for text in texts:
        kept += watch.read(text, seconds)
        if watch.is_over:
            break
    return kept, watch.is_over


@pytest.mark.parametrize(
    ("texts", "kept", "is_over"),
    [
        (["return x\n"], "return x\n", False),
        (["a\n    b\n    c"], "a\n    b\n    c", False),
        (["a\n    b\ndef c"], "a\n    b\n", True),
        (["a\n    b\n  c"], "a\n    b\n  ", True),
        (["a\n", "  ", "  b", "\n", "c", "d"], "a\n    b\n", True),
        (["a\n\n\n    b"], "a\n\n\n    b", False),
        (["a\n\t\t\t\tb\n"], "a\n\t\t\t\tb\n", False),
        (["first line"], "first line", False),
    ],
)
def test_a_line_that_is_indented_too_little_ends_the_answer(texts: list[str], kept: str, is_over: bool) -> None:
    assert read(LineLimits(min_indent=4), *texts) == (kept, is_over)


def test_the_end_of_a_line_ends_an_answer_that_takes_too_long() -> None:
    limits = LineLimits(max_s=0.5)
    assert read(limits, "a", "b\n", "c", seconds=0.6) == ("ab\n", True)
    assert read(limits, "a", "b\n", "c", seconds=0.5) == ("ab\nc", False)
    assert read(limits, "a", "b", seconds=9.0) == ("ab", False)
