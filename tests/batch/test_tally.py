"""Tests of the counts of a run and of the estimate of its remaining time."""

from __future__ import annotations

from tests.batch.conftest import lines
from worker_gguf.batch.dispatch import Result
from worker_gguf.batch.tally import Tally
from worker_gguf.errors import InvalidRequest

(LINE,) = lines("a")


def test_the_estimate_is_from_the_rate_of_this_run() -> None:
    tally = Tally(n_requests=100, n_before=60, started_s=1000)
    assert tally.seconds_left(1005) is None
    for _ in range(8):
        tally.add(Result(LINE, b"", n_tokens=3))
    tally.add(Result(LINE, b"", InvalidRequest("Bad.")))
    tally.add(Result(LINE, b"", n_tokens=6))
    assert (tally.n_answered, tally.n_failed, tally.n_tokens) == (70, 1, 30)
    assert tally.seconds_left(1020) == 60  # 10 in 20 s, 30 to do
