"""Tests of guesses from a draft model, with a fake runner and a fake draft model whose times are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import EOG, FakeDrafter, FakeRunner, limits, request
from worker_gguf.engine.drafting import PROBE_SHARE
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.engine.updates import Token

N_CTX = 4000
# A row adds 5 % of a step, and a step of the draft model takes 10 % of one.
ROW, DRAFT = 0.05, 0.1


def successor(history: Sequence[int]) -> int:
    """Return the next token of a model that never repeats three tokens, so that only a draft model can guess it."""
    return 1 + (sum(history[:3]) + 7919 * history[-1] + 104_729 * len(history)) % 1_000_003


def foretold(prompt: Sequence[int], n: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(successor(tokens))
    return tokens[len(prompt) :]


def wrong(history: Sequence[int]) -> int:
    return successor(history) + 1


def right_with_chance(percent: int) -> Callable[[Sequence[int]], int]:
    """Guess right in so many of 100 cases, which the history decides."""
    return lambda history: successor(history) if hash((history[-1], len(history))) % 100 < percent else wrong(history)


def step_seconds(n_rows: int, n_prompt: int) -> float:
    return 1.0 + ROW * (n_rows - 1) + 0.01 * n_prompt


def draft_seconds(n_rows: int, n_prompt: int) -> float:
    return DRAFT + 0.01 * (n_rows - 1) + 0.001 * n_prompt


class Run:
    """Requests that run to their end, and the time that this takes."""

    def __init__(
        self,
        drafter: FakeDrafter | None,
        *,
        n_slots: int = 1,
        forced: Callable[[Sequence[int]], int] = lambda history: 0,
        **changes: object,
    ) -> None:
        values: dict[str, object] = {"n_ctx": N_CTX, "n_cells": N_CTX * n_slots, "n_batch": 512, "n_rows": 17 * n_slots}
        given = limits(**{"n_slots": n_slots, **values, **changes})
        self.drafter = drafter
        self.runner = FakeRunner(given, successor, step_seconds, forced)
        if drafter is not None:
            drafter.memory = self.runner.memory
        self.scheduler = Scheduler(given, eog=frozenset({EOG}), max_queue=100, drafter=drafter)
        self.tokens: dict[str, list[int]] = {}
        self.seconds = 0.0
        self.n_drafted = self.n_steps = 0

    def add(self, name: str, prompt: Sequence[int] = (5, 6, 7), max_tokens: int = 200) -> None:
        self.scheduler.add(request(name, prompt, max_tokens=max_tokens))

    def step(self) -> bool:
        batch = self.scheduler.schedule()
        drafted = self.scheduler.take_drafted()
        if batch is None:
            return False
        result = self.runner.run(batch)
        self.seconds += result.decode_seconds + drafted.seconds
        self.n_steps += 1
        self.n_drafted += sum(chunk.n_outputs - 1 for chunk in batch.chunks if chunk.slot in drafted.slots)
        for update in self.scheduler.commit(batch, result):
            if isinstance(update, Token):
                self.tokens.setdefault(update.sequence.id, []).append(update.token)
        return True

    def finish(self, most: int = 100_000) -> Run:
        for _ in range(most):
            if not self.step():
                return self
        raise AssertionError("the scheduler does not come to an end")


def one(drafter: FakeDrafter | None, max_tokens: int = 200, **changes: object) -> Run:
    run = Run(drafter, **changes)  # type: ignore[arg-type]
    run.add("a", max_tokens=max_tokens)
    return run.finish()


def test_a_draft_model_that_is_right_makes_an_answer_several_times_as_fast() -> None:
    run, plain = one(FakeDrafter(successor, draft_seconds)), one(None)
    assert run.tokens["a"] == plain.tokens["a"] == foretold([5, 6, 7], 200)
    assert run.seconds < plain.seconds / 3
    assert run.n_drafted > 100


def test_a_draft_model_that_is_wrong_changes_no_answer_and_is_turned_off() -> None:
    run, plain = one(FakeDrafter(wrong, draft_seconds), 3000), one(None, 3000)
    assert run.tokens["a"] == plain.tokens["a"]
    # The guesses that showed that they are wrong cost a few steps, and the trials later 1 % of the time.
    assert run.seconds < 1.02 * plain.seconds
    assert run.n_drafted < 300


def test_guesses_that_are_worth_less_than_they_cost_are_turned_off_although_most_are_right() -> None:
    slow = FakeDrafter(right_with_chance(90), lambda n_rows, n_prompt: 1.0 * n_rows)
    run, plain = one(slow, 3000), one(None, 3000)
    assert run.seconds < 1.02 * plain.seconds


def test_while_guesses_are_off_trials_take_one_percent_of_the_time() -> None:
    run = Run(FakeDrafter(wrong, draft_seconds))
    run.add("a", max_tokens=3500)
    for _ in range(500):
        run.step()
    assert run.drafter is not None
    run_seconds, draft_total = run.seconds, run.drafter.total_seconds
    n_before = len(run.drafter.requests)
    run.finish()
    assert len(run.drafter.requests) > n_before
    spent = run.drafter.total_seconds - draft_total
    assert 0 < spent < 1.1 * PROBE_SHARE * (run.seconds - run_seconds) + 2 * DRAFT


def test_guesses_that_become_right_are_turned_on_again() -> None:
    drafter = FakeDrafter(lambda history: (wrong if len(history) < 500 else successor)(history), draft_seconds)
    run = Run(drafter)
    run.add("a", max_tokens=3500)
    run.finish()
    assert run.n_steps < 3000
    assert run.tokens["a"] == foretold([5, 6, 7], 3500)


def test_each_request_is_turned_off_alone() -> None:
    def draw(history: Sequence[int]) -> int:
        return successor(history) if history[0] == 5 else wrong(history)

    run = Run(FakeDrafter(draw, draft_seconds), n_slots=2)
    run.add("good", [5, 6, 7], max_tokens=1500)
    run.add("bad", [8, 9], max_tokens=1500)
    while len(run.tokens.get("good", ())) < 1500:
        run.step()
    assert len(run.tokens["bad"]) < 500
    assert run.drafter is not None
    late = [asked.slot for asked in run.drafter.requests[-100:]]
    assert late.count(0) > 80


@pytest.mark.parametrize("percent", [20, 50, 80, 95])
def test_the_number_of_guesses_is_never_much_worse_than_none(percent: int) -> None:
    run = one(FakeDrafter(right_with_chance(percent), draft_seconds), 1500)
    plain = one(None, 1500)
    assert run.tokens == plain.tokens
    assert run.seconds < 1.02 * plain.seconds
    if percent >= 80:
        assert run.seconds < plain.seconds / 1.5


def test_a_long_prompt_is_read_in_pieces_and_no_running_answer_waits() -> None:
    drafter = FakeDrafter(successor, draft_seconds, n_read=100)
    run = Run(drafter)
    run.add("a", list(range(1, 1001)), max_tokens=200)
    run.finish()
    assert run.tokens["a"] == foretold(list(range(1, 1001)), 200)
    assert max(step.n_prompt for step in drafter.steps) <= 100
    assert run.n_drafted > 100


def test_reading_a_prompt_takes_no_longer_than_the_steps_beside_it() -> None:
    drafter = FakeDrafter(successor, lambda n_rows, n_prompt: DRAFT + 0.01 * n_prompt)
    run = Run(drafter)
    run.add("a", list(range(1, 1001)), max_tokens=400)
    run.finish()
    assert run.n_drafted > 100
    assert max(step.seconds for step in drafter.steps) < 1.3  # a step takes 1 second


def test_a_prompt_whose_short_answer_cannot_save_its_reading_is_not_read() -> None:
    drafter = FakeDrafter(successor, lambda n_rows, n_prompt: DRAFT + 0.1 * n_prompt)
    run = Run(drafter)
    run.add("first", list(range(1, 101)), max_tokens=50)
    run.finish()
    n_before = len(drafter.requests)
    run.add("second", list(range(300, 1300)), max_tokens=10)
    run.finish()
    assert len(drafter.requests) == n_before


def test_what_reads_along_guesses_for_a_short_answer_to_a_long_prompt() -> None:
    drafter = FakeDrafter(successor, lambda n_rows, n_prompt: DRAFT + 0.1 * n_prompt, reads_along=True)
    run = Run(drafter)
    run.add("first", list(range(1, 101)), max_tokens=50)
    run.finish()
    n_before = len(drafter.requests)
    run.add("second", list(range(300, 1300)), max_tokens=10)
    run.finish()
    assert run.tokens["second"] == foretold(list(range(300, 1300)), 10)
    assert 0 < len(drafter.requests) - n_before < 5


def now_and_then(history: Sequence[int]) -> int:
    return 3 if len(history) % 5 == 0 else 0


@pytest.mark.parametrize("reads_along", [False, True])
def test_forced_tokens_beside_guesses_change_no_answer_and_guesses_go_on_after_them(*, reads_along: bool) -> None:
    drafter = FakeDrafter(successor, draft_seconds, reads_along=reads_along)
    run = Run(drafter, n_slots=2, forced=now_and_then)
    run.add("a", [5, 6, 7], max_tokens=600)
    run.add("b", [6, 7], max_tokens=600)
    run.finish()
    assert run.tokens == {"a": foretold([5, 6, 7], 600), "b": foretold([6, 7], 600)}
    assert run.n_drafted > 200


def test_what_reads_along_is_not_asked_before_forced_tokens_are_computed() -> None:
    drafter = FakeDrafter(successor, draft_seconds, reads_along=True)
    run = Run(drafter, forced=lambda history: 3)
    run.add("a", max_tokens=200)
    run.finish()
    assert run.tokens["a"] == foretold([5, 6, 7], 200)
    assert drafter.requests == []


def test_the_draft_model_is_not_asked_beyond_its_context() -> None:
    run = one(FakeDrafter(successor, draft_seconds, n_ctx=100), 200)
    assert run.tokens["a"] == foretold([5, 6, 7], 200)
    assert run.n_drafted > 30


def test_a_repetition_is_guessed_without_the_draft_model() -> None:
    drafter = FakeDrafter(wrong, draft_seconds)
    run = Run(drafter)
    run.runner.draw = lambda history: 1 + len(history) % 3
    run.add("a", [1, 2], max_tokens=300)
    run.finish()
    assert len(run.runner.batches) < 80
    assert len(drafter.requests) < 30


def test_an_answer_may_end_inside_guesses() -> None:
    run = Run(FakeDrafter(lambda history: 9, draft_seconds))
    run.runner.draw = lambda history: EOG if len(history) == 40 else 9 + len(history) % 2 * (len(history) % 5 == 0)
    run.add("a", [1, 2, 3], max_tokens=100)
    run.finish()
    assert len(run.tokens["a"]) == 37
    assert run.scheduler.memory.slots[0].tokens == run.runner.memory[0]


def test_without_rows_for_guesses_the_draft_model_is_not_asked() -> None:
    drafter = FakeDrafter(successor, draft_seconds)
    one(drafter, n_rows=0)
    one(drafter, prefix="whole")
    assert drafter.requests == []


def test_a_full_memory_gets_no_guesses_that_it_cannot_hold() -> None:
    run = Run(FakeDrafter(successor, draft_seconds), n_slots=2, n_ctx=60, n_cells=70)
    run.add("a", [1, 2], max_tokens=30)
    run.add("b", [3, 2], max_tokens=30)
    run.finish()
    assert run.runner.opened == ["a", "b"]
    assert run.tokens == {"a": foretold([1, 2], 30), "b": foretold([3, 2], 30)}


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 40)), min_size=1, max_size=6),
    st.integers(0, 100),
    st.integers(1, 3),
    st.integers(3, 50),
)
def test_answers_are_those_without_a_draft_model(
    asked: list[tuple[int, int]], percent: int, n_slots: int, n_read: int
) -> None:
    drafter = FakeDrafter(right_with_chance(percent), draft_seconds, n_read=n_read)
    run = Run(drafter, n_slots=n_slots, n_ctx=100, n_cells=120, n_batch=32)
    for i, (n_prompt, n_tokens) in enumerate(asked):
        run.add(f"r{i}", [1 + (i + k) % 7 for k in range(n_prompt)], max_tokens=n_tokens)
    run.finish()
    for i, (n_prompt, n_tokens) in enumerate(asked):
        assert run.tokens[f"r{i}"] == foretold([1 + (i + k) % 7 for k in range(n_prompt)], n_tokens)
