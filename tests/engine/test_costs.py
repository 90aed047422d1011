"""Tests of the costs of steps that are learned from measurements."""

from __future__ import annotations

import pytest

from worker_gguf.engine.costs import StepCosts


def test_between_measured_numbers_of_rows_the_cost_is_linear_and_beyond_them_that_of_the_nearest() -> None:
    costs = StepCosts()
    assert costs.of_rows(1) is None
    costs.note(2, 0, 1.0)
    costs.note(6, 0, 2.0)
    assert [costs.of_rows(n) for n in (1, 2, 4, 6, 9)] == [1.0, 1.0, 1.5, 2.0, 2.0]


def test_one_step_that_another_process_disturbed_changes_the_mean_little() -> None:
    costs = StepCosts()
    costs.note(1, 0, 1.0)
    costs.note(1, 0, 100.0)
    assert costs.of_rows(1) == pytest.approx(1.25)
    for _ in range(60):
        costs.note(1, 0, 100.0)  # but a lasting change is learned
    assert costs.of_rows(1) == pytest.approx(100.0, rel=0.01)


def test_the_total_has_the_seconds_of_all_steps() -> None:
    costs = StepCosts()
    costs.note(1, 0, 1.0)
    costs.note(0, 50, 2.0)
    costs.note(2, 30, 4.0)
    assert costs.total_seconds == pytest.approx(7.0)
