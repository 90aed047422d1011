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


def test_a_prompt_token_costs_the_mean_of_the_latest_ones_and_small_parts_do_not_count() -> None:
    costs = StepCosts()
    assert costs.per_prompt_token is None
    costs.note(1, 0, 1.0)
    costs.note(1, 1000, 11.0)
    costs.note(1, 8, 2.0)
    assert costs.per_prompt_token == pytest.approx(0.01)
    for _ in range(20):
        costs.note(1, 1000, 21.0)
    assert costs.per_prompt_token == pytest.approx(0.02, rel=0.01)


def test_a_part_of_a_prompt_costs_what_the_latest_parts_beside_other_rows_cost() -> None:
    costs = StepCosts()
    costs.note(0, 100, 1.0)
    assert costs.per_part_token is None
    costs.note(1, 0, 1.0)
    costs.note(1, 10, 2.0)
    assert costs.per_part_token == pytest.approx(0.1)
    costs.note(1, 10, 3.0)
    assert costs.per_part_token == pytest.approx(0.15)
