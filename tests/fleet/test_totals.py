"""Tests of the sums over the statistics of several engines."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import fields

from worker_gguf.engine.stats import EngineStats
from worker_gguf.fleet.totals import of_the_past, total

OF_NOW = {"n_slots", "n_cells", "max_queue", "busy_slots", "waiting", "held_tokens", "saved_bytes"}


def stats() -> EngineStats:
    """Return stats with a value in every field."""
    made = EngineStats(finished=Counter(stop=3))
    made.batch_sizes = [1] * len(made.batch_sizes)
    for field in fields(made):
        if field.name not in ("finished", "batch_sizes"):
            setattr(made, field.name, 3)
    return made


def times(n: int, value: object) -> object:
    if isinstance(value, Counter):
        return Counter({key: n * count for key, count in value.items()}) if n else Counter()
    if isinstance(value, list):
        return [n * count for count in value]
    assert isinstance(value, int | float)
    return n * value


@pytest.mark.parametrize("name", [field.name for field in fields(EngineStats)])
def test_totals_add_all_numbers_of_engines_and_the_counters_of_past_ones(name: str) -> None:
    one = getattr(stats(), name)
    assert getattr(total([stats(), stats()]), name) == times(2, one)
    assert getattr(of_the_past([stats(), stats()]), name) == times(0 if name in OF_NOW else 2, one)
