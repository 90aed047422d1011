"""Tests of the choice of the number of readers, on simulated volumes."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from worker_gguf.readahead.pace import FIRST_READERS, HOLD_S, Pace

MIB = 1 << 20
BLOCK = 2 * MIB


def simulate(block_s: Callable[[int], float], size_bytes: int, pace: Pace | None = None) -> tuple[Pace, float, int]:
    """Read with as many readers as the pace says; `block_s` is how long a block takes while so many read.

    The pace, the seconds, the most readers.
    """
    pace = pace or Pace(0.0)
    now_s, left, most = 0.0, size_bytes, 0
    running: list[float] = []
    while left or running:
        while left and len(running) < pace.readers:
            left -= min(left, BLOCK)
            heapq.heappush(running, now_s + block_s(min(pace.readers, len(running) + 1)))
        most = max(most, len(running))
        now_s = heapq.heappop(running)
        pace.done(BLOCK, now_s)
    return pace, now_s, most


def slow_reads(n: int) -> float:
    """Simulate a network: a block takes the same time with any number of readers, up to the capacity of the line."""
    return max(0.025, n * BLOCK / 900e6)


def busy_processor(n: int) -> float:
    """Simulate one core that does all the work, and that each further reader costs something."""
    return n * BLOCK / 470e6 * (1 + 0.1 * (n - 1))


def test_a_mount_with_slow_reads_gets_many_readers() -> None:
    pace, seconds, _ = simulate(slow_reads, 955 * MIB)
    assert pace.readers in (16, 32)
    assert seconds < 1.2 * 955 * MIB / 900e6


def test_a_very_slow_mount_gets_all_of_them() -> None:
    pace, _, _ = simulate(lambda _n: 0.5, 4096 * MIB)
    assert pace.readers == 32


def test_where_the_processor_is_the_bottleneck_one_reader_is_left() -> None:
    pace, seconds, most = simulate(busy_processor, 2000 * MIB)
    assert pace.readers == 1
    assert most <= 2 * FIRST_READERS
    assert seconds < 1.2 * 2000 * MIB / 470e6


def test_a_number_that_is_set_stays() -> None:
    pace, _, most = simulate(slow_reads, 500 * MIB, Pace(0.0, first=3, most=3))
    assert (pace.readers, most) == (3, 3) or pace.readers < 3


def test_a_volume_that_becomes_faster_is_noticed() -> None:
    pace = Pace(0.0)
    simulate(busy_processor, 1000 * MIB, pace)
    assert pace.readers == 1
    now_s = 1000.0
    for _ in range(int(HOLD_S[1] / 0.025) * 8):
        now_s += 0.025 / pace.readers
        pace.done(BLOCK, now_s)
    assert pace.readers > FIRST_READERS
