"""Tests of the costs of steps that are learned from measurements."""

from __future__ import annotations

import pytest

from tests.engine.test_scheduler import Drive
from tests.fakes import limits
from worker_gguf.engine.batch import Batch, Chunk, StepResult
from worker_gguf.engine.costs import StepCosts, Work, passes


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


DRAWING = Chunk(0, 3, [7], 1, is_decoding=True)
FORCED = Chunk(1, 3, [7, 8, 9], 1, is_decoding=True)
GUESSING = Chunk(2, 3, [7, 8, 9, 10, 11], 3, is_decoding=True)
PROMPT = Chunk(3, 0, [1] * 50, 1)
SCORED = Chunk(4, 0, [1] * 20, 20, (1,) * 20)


def test_forced_and_scored_tokens_are_neither_rows_nor_further_tokens_of_prompts() -> None:
    assert Work.of([DRAWING]) == (1, 0, 0, 0)
    assert Work.of([DRAWING, FORCED, GUESSING]) == (5, 0, 0, 4)
    assert Work.of([DRAWING, PROMPT]) == (2, 49, 0, 0)
    assert Work.of([DRAWING, SCORED]) == (1, 0, 20, 0)


def learned(costs: StepCosts, seconds: float, *chunks: Chunk) -> None:
    costs.learn(Batch((), chunks), StepResult(decode_seconds=seconds))


def test_forced_tokens_teach_what_they_cost_and_nothing_about_prompts() -> None:
    costs = StepCosts()
    learned(costs, 1.0, DRAWING)
    for _ in range(50):
        learned(costs, 1.1, FORCED)
        learned(costs, 1.0, DRAWING)
    assert costs.of_rows(1) == pytest.approx(1.0, abs=0.02)
    assert costs.per_forced_token == pytest.approx(0.05, abs=0.01)
    assert costs.per_part_token is costs.per_prompt_token is None
    learned(costs, 2.0, DRAWING, PROMPT)
    before = costs.per_part_token, costs.per_prompt_token
    for _ in range(10):
        learned(costs, 1.2, DRAWING, FORCED)
    assert (costs.per_part_token, costs.per_prompt_token) == before


def test_scored_tokens_teach_only_what_a_part_of_a_prompt_adds() -> None:
    costs = StepCosts()
    learned(costs, 1.0, DRAWING)
    learned(costs, 3.0, DRAWING, SCORED)
    learned(costs, 9.0, SCORED)
    assert costs.per_part_token == pytest.approx(0.1)
    assert costs.per_prompt_token is None
    assert costs.of_rows(21) == 1.0
    assert costs.total_seconds == pytest.approx(13.0)


def test_an_answer_with_forced_tokens_in_each_step_leaves_the_cost_of_prompts_as_it_is() -> None:
    drive = Drive(limits(n_ctx=2000, n_cells=4000, n_batch=128), seconds=lambda *_: 1.0, forced=lambda _: 2)
    drive.add("a", [1, 2, 3], max_tokens=600)
    drive.add("b", list(range(100)), max_tokens=2)
    drive.finish()
    costs = drive.scheduler._costs
    assert costs.of_rows(3) == costs.of_rows(6) == 1.0
    assert costs.per_prompt_token is not None
    assert costs.per_prompt_token <= 0.01


def test_forced_tokens_that_cost_nothing_at_first_may_cost_something_later() -> None:
    costs = StepCosts()
    for seconds in (1.0, 1.0, 1.0):
        learned(costs, seconds, DRAWING)
        learned(costs, seconds, FORCED)
    assert costs.per_forced_token == 0.0
    learned(costs, 1.5, FORCED)
    assert costs.per_forced_token
    assert costs.per_forced_token > 0.1


def test_a_step_of_several_passes_teaches_nothing_about_rows() -> None:
    costs = StepCosts(partitioned=True)
    learned(costs, 1.0, DRAWING)
    learned(costs, 5.0, DRAWING, FORCED)
    assert costs.of_rows(2) == 1.0
    assert costs.per_forced_token is None
    assert costs.total_seconds == 6.0
    # The forced tokens of a sequence that is alone, or one forced token of each, are one pass.
    learned(costs, 1.2, FORCED)
    assert costs.per_forced_token == pytest.approx(0.1)
    before = costs.per_forced_token
    learned(costs, 2.0, DRAWING, Chunk(1, 3, [7], 0, is_decoding=True))
    assert costs.per_forced_token != before


@pytest.mark.parametrize(
    ("pending", "sizes"),
    [
        ({0: 1, 1: 1, 2: 1}, [3]),
        ({0: 4, 1: 4}, [8]),
        ({0: 3, 1: 1, 2: 1}, [3, 2]),
        ({0: 9, 1: 1, 2: 9}, [3, 8, 8]),
        ({0: 9, 1: 9, 2: 1}, [3, 16]),
        ({0: 2, 1: 4}, [4, 2]),
        ({0: 1, 2: 1}, [1, 1]),
        ({}, []),
    ],
)
def test_passes_have_the_same_number_of_tokens_of_each_of_several_neighbours(
    pending: dict[int, int], sizes: list[int]
) -> None:
    assert passes(pending) == sizes


@pytest.mark.parametrize(("partitioned", "expected"), [(True, 4.0), (False, 3.1)])
def test_a_guess_of_one_sequence_beside_others_is_one_more_pass_of_a_partitioned_memory(
    partitioned: bool, expected: float
) -> None:
    costs = StepCosts(partitioned=partitioned)
    for n_rows, seconds in ((1, 1.0), (4, 3.0), (5, 3.1), (8, 3.4)):
        costs.note(n_rows, 0, seconds)
    assert costs.of_decoding(5, 0, {0: 1, 1: 2, 2: 1, 3: 1}) == expected
    assert costs.of_decoding(5, 0, {0: 5}) == 3.1
    # A guess of each is one pass.
    assert costs.of_decoding(8, 0, {0: 2, 1: 2, 2: 2, 3: 2}) == 3.4
    assert StepCosts(partitioned=partitioned).of_decoding(2, 0, {0: 1, 1: 1}) is None


def test_only_steps_of_one_pass_for_each_neighbourhood_teach_what_rows_cost() -> None:
    costs = StepCosts(partitioned=True)
    learned(costs, 1.0, DRAWING)
    learned(costs, 9.0, DRAWING, Chunk(1, 3, [7, 8], 2, is_decoding=True))
    assert costs.of_rows(3) == 1.0
    learned(costs, 2.0, *(Chunk(slot, 3, [7, 8], 2, is_decoding=True) for slot in (0, 1)))
    assert costs.of_rows(4) == 2.0
    learned(costs, 3.0, *(Chunk(slot, 3, [7], 1, is_decoding=True) for slot in (0, 2)))
    assert costs.of_rows(2) == 3.0
