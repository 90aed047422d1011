"""A small chaos run: two workers, one that is stopped, and a poisoned job that kills two."""

from __future__ import annotations

from pathlib import Path

from tests.emulator.chaos import Plan, chaos


def test_60_jobs_over_two_workers_that_come_and_go_end_once_each_and_right(tmp_path: Path) -> None:
    plan = Plan(
        60, 2, n_poisoned=1, outage_s=0, kill_every_s=0.5, seed=5, most_harm=1, max_tries=2, limit_s=120, most_open=30
    )
    tally = chaos(plan, tmp_path)
    assert not tally.faults, str(tally)
    assert (tally.jobs, tally.lost, tally.twice) == (60, [], [])
    assert tally.right > 20
    assert tally.deeds["workers without a leak"]
