"""Tests of the wait in the `Retry-After` header of a refused request."""

from __future__ import annotations

from worker_gguf.generation.turnover import Turnover


def test_the_wait_is_at_least_a_second() -> None:
    assert Turnover().seconds_until(1, 0.0) == 1


def test_the_wait_is_the_time_between_endings_for_each_place() -> None:
    turnover = Turnover()
    turnover.filled(0.0)
    for now_s in (4.0, 8.0, 12.0):
        turnover.ended(now_s, is_full=True)
    assert turnover.seconds_until(1, 12.0) == 4
    assert turnover.seconds_until(3, 12.0) == 12


def test_a_pause_of_an_idle_worker_does_not_count() -> None:
    turnover = Turnover()
    turnover.filled(0.0)
    turnover.ended(2.0, is_full=False)
    turnover.ended(1000.0, is_full=False)
    assert turnover.seconds_until(1, 2000.0) == 2


def test_before_any_ending_the_wait_is_the_time_since_requests_wait() -> None:
    turnover = Turnover()
    turnover.filled(10.0)
    turnover.filled(20.0)
    assert turnover.seconds_until(1, 31.0) == 21


def test_one_long_ending_is_forgotten_and_the_wait_has_a_limit() -> None:
    turnover = Turnover()
    turnover.filled(0.0)
    turnover.ended(10_000.0, is_full=True)
    assert turnover.seconds_until(1, 10_000.0) == 120
    for i in range(60):
        turnover.ended(10_001.0 + i, is_full=True)
    assert turnover.seconds_until(1, 10_060.0) <= 2
