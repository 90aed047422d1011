"""Tests of the scheduler for a model that pools. It is pure, so a fake runner is all they need."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_pooler import FakePooler, pooling_limits, pooling_request, values_of
from worker_gguf.engine.pooling import PoolingResult, PoolingScheduler, Result
from worker_gguf.engine.runner import Limits
from worker_gguf.errors import DeadlineExceeded, EngineFailed, QueueFull


class Steps:
    """A scheduler and a fake model, one step at a time."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.runner = FakePooler(limits or pooling_limits())
        self.scheduler = PoolingScheduler(self.runner.limits)

    def add(self, request_id: str, n_tokens: int = 3, group: int = 0, priority: int = 0) -> None:
        self.scheduler.add(pooling_request(request_id, prompt(request_id, n_tokens), priority=priority), group)

    def step(self) -> list[Result]:
        batch = self.scheduler.schedule()
        return [] if batch is None else self.scheduler.commit(batch, self.runner.run(batch))

    def ids(self) -> list[str]:
        """Run a step and return the ids of the inputs that it completed, in the order of the batch."""
        return [result.request_id for result in self.step()]

    def rest(self) -> list[list[str]]:
        steps: list[list[str]] = []
        while not self.scheduler.is_idle:
            steps.append(self.ids())
        return steps


def prompt(request_id: str, n_tokens: int) -> list[int]:
    return [1 + (hash_of(request_id) + at) % 97 for at in range(n_tokens)]


def hash_of(text: str) -> int:
    total: int = sum(31**at * ord(character) for at, character in enumerate(text))
    return total % 9973


def test_a_step_packs_whole_inputs_up_to_its_tokens() -> None:
    steps = Steps(pooling_limits(n_packed=16))
    for number in range(6):
        steps.add(str(number), 5)
    assert steps.rest() == [["0", "1", "2"], ["3", "4", "5"]]


def test_a_step_has_no_more_inputs_than_slots() -> None:
    steps = Steps(pooling_limits(n_slots=2))
    for number in range(3):
        steps.add(str(number), 1)
    assert steps.rest() == [["0", "1"], ["2"]]


def test_each_input_gets_its_own_numbers() -> None:
    steps = Steps()
    steps.add("a", 2)
    steps.add("b", 4)
    assert steps.step() == [
        Result("a", "stop", values_of(prompt("a", 2))),
        Result("b", "stop", values_of(prompt("b", 4))),
    ]


def test_an_input_that_arrives_during_a_step_is_part_of_the_next_one() -> None:
    steps = Steps()
    steps.add("a")
    steps.runner.on_run = lambda: steps.add("late")
    assert steps.ids() == ["a"]
    steps.runner.on_run = lambda: None
    assert steps.ids() == ["late"]


def test_an_input_that_is_longer_than_a_step_packs_is_computed_alone() -> None:
    steps = Steps(pooling_limits(n_packed=16, n_ctx=32))
    steps.add("long", 30)
    steps.add("short", 2)
    assert steps.rest() == [["long"], ["short"]]


def test_shorter_inputs_fill_the_step_that_a_long_one_does_not_fit_and_the_long_one_is_next() -> None:
    steps = Steps(pooling_limits(n_packed=16))
    steps.add("a", 10)
    steps.add("long", 12)
    steps.add("b", 4)
    steps.add("c", 12)
    assert steps.rest() == [["a", "b"], ["long"], ["c"]]


def test_inputs_that_may_be_computed_in_parts_fill_every_step() -> None:
    steps = Steps(pooling_limits(is_whole=False, n_packed=16, n_ctx=64))
    steps.add("a", 10)
    steps.add("long", 40)
    steps.add("b", 8)
    assert steps.ids() == ["a"]
    assert [len(part.tokens) for part in steps.runner.batches[0].parts] == [10, 6]
    assert steps.rest() == [[], [], ["long", "b"]]
    assert [batch.n_tokens for batch in steps.runner.batches] == [16, 16, 16, 10]


def test_only_one_input_is_begun_and_not_completed() -> None:
    steps = Steps(pooling_limits(is_whole=False, n_packed=16, n_ctx=64))
    steps.add("a", 20)
    steps.add("b", 20)
    steps.add("c", 3)
    assert steps.rest() == [[], ["a", "c"], [], ["b"]]


def test_a_lower_priority_goes_first() -> None:
    steps = Steps(pooling_limits(n_slots=1))
    steps.add("usual")
    steps.add("urgent", priority=-1)
    assert steps.rest() == [["urgent"], ["usual"]]


def test_a_request_with_one_input_does_not_wait_for_all_inputs_of_another_request() -> None:
    steps = Steps(pooling_limits(n_slots=2))
    for number in range(8):
        steps.add(f"bulk{number}", group=1)
    assert steps.ids() == ["bulk0", "bulk1"]
    steps.add("query", group=2)
    assert "query" in steps.ids()


def test_requests_with_many_inputs_take_turns() -> None:
    steps = Steps(pooling_limits(n_slots=2))
    for number in range(4):
        steps.add(f"a{number}", group=1)
    for number in range(4):
        steps.add(f"b{number}", group=2)
    assert steps.rest() == [["a0", "b0"], ["a1", "b1"], ["a2", "b2"], ["a3", "b3"]]


def test_the_inputs_of_one_request_keep_their_order() -> None:
    steps = Steps(pooling_limits(n_slots=3))
    for number in range(7):
        steps.add(str(number), group=5)
    assert steps.rest() == [["0", "1", "2"], ["3", "4", "5"], ["6"]]


def test_a_cancelled_input_is_not_computed() -> None:
    steps = Steps()
    steps.add("a")
    steps.add("b")
    steps.scheduler.finish("a")
    steps.scheduler.finish("unknown")
    assert steps.rest() == [["b"]]


def test_an_input_that_is_cancelled_between_its_parts_leaves_its_slot_empty() -> None:
    steps = Steps(pooling_limits(is_whole=False, n_packed=16, n_ctx=64))
    steps.add("long", 40)
    assert steps.ids() == []
    steps.scheduler.finish("long")
    assert steps.scheduler.is_idle
    steps.add("next", 5)
    assert steps.rest() == [["next"]]
    assert steps.runner.memory == {}


def test_a_deadline_ends_an_input_and_so_does_a_wait_that_is_too_long() -> None:
    scheduler = PoolingScheduler(pooling_limits())
    scheduler.add(pooling_request("late", deadline_s=5.0), 1)
    scheduler.add(pooling_request("waited"), 2, start_by_s=7.0)
    scheduler.add(pooling_request("patient"), 3)
    assert scheduler.expire(4.9) == []
    (late,) = scheduler.expire(5.0)
    assert (late.request_id, late.reason, type(late.error)) == ("late", "error", DeadlineExceeded)
    (waited,) = scheduler.expire(7.0)
    assert (waited.request_id, type(waited.error)) == ("waited", QueueFull)
    assert scheduler.n_open == 1


def test_an_input_that_has_begun_is_not_refused_for_waiting() -> None:
    steps = Steps(pooling_limits(is_whole=False, n_packed=16, n_ctx=64))
    steps.scheduler.add(pooling_request("long", range(1, 41)), 1, start_by_s=1.0)
    assert steps.ids() == []
    assert steps.scheduler.expire(2.0) == []
    assert steps.rest() == [[], ["long"]]


def test_a_failed_step_ends_its_inputs_and_the_others_go_on() -> None:
    steps = Steps(pooling_limits(n_slots=1))
    steps.add("a")
    steps.add("b")
    error = EngineFailed("It failed.")
    steps.runner.next_results = [PoolingResult({}, error)]
    assert steps.step() == [Result("a", "error", error=error)]
    assert steps.rest() == [["b"]]


def test_numbers_that_are_not_finite_are_an_error_of_their_input_alone() -> None:
    scheduler = PoolingScheduler(pooling_limits())
    for name in ("bad", "good"):
        scheduler.add(pooling_request(name), 1)
    batch = scheduler.schedule()
    assert batch is not None
    bad, good = scheduler.commit(batch, PoolingResult({batch.parts[1].slot: b"numbers."}))
    assert (bad.request_id, bad.reason, type(bad.error)) == ("bad", "error", EngineFailed)
    assert good == Result("good", "stop", b"numbers.")


def test_a_reset_ends_everything_and_empties_every_slot() -> None:
    steps = Steps(pooling_limits(is_whole=False, n_packed=16, n_ctx=64))
    steps.add("long", 40)
    steps.add("b", 3)
    steps.step()
    error = EngineFailed("A bug.")
    assert {(result.request_id, result.error) for result in steps.scheduler.reset(error)} == {
        ("long", error),
        ("b", error),
    }
    assert steps.scheduler.is_idle
    steps.add("next")
    assert steps.ids() == ["next"]
    assert set(steps.runner.batches[-1].emptied) == set(range(4))


@pytest.mark.parametrize("length", [0, 33])
def test_an_input_that_no_step_can_hold_is_a_bug_of_the_caller(length: int) -> None:
    scheduler = PoolingScheduler(pooling_limits(n_ctx=32))
    with pytest.raises(AssertionError, match="cannot hold the input"):
        scheduler.add(pooling_request("a", [1] * length), 1)


@given(
    lengths=st.lists(st.tuples(st.integers(1, 32), st.integers(0, 3), st.integers(-1, 1)), max_size=40),
    is_whole=st.booleans(),
    cancelled=st.sets(st.integers(0, 39), max_size=10),
)
def test_every_input_ends_exactly_once_with_its_own_numbers(
    lengths: Sequence[tuple[int, int, int]], is_whole: bool, cancelled: set[int]
) -> None:
    steps = Steps(pooling_limits(is_whole=is_whole))
    expected: dict[str, bytes] = {}
    ended: dict[str, bytes | None] = {}
    for number, (length, group, priority) in enumerate(lengths):
        steps.add(str(number), length, group, priority)
        expected[str(number)] = values_of(prompt(str(number), length))
        if number % 3 == 0:
            ended |= {result.request_id: result.values for result in steps.step()}
        if number in cancelled and str(number) not in ended:
            steps.scheduler.finish(str(number))
            del expected[str(number)]
    n_steps = 0
    while not steps.scheduler.is_idle:
        n_steps += 1
        assert n_steps < 200
        for result in steps.step():
            assert result.request_id not in ended
            ended[result.request_id] = result.values
    assert ended == expected


def test_inputs_that_are_over_do_not_stay_in_the_queue() -> None:
    steps = Steps()
    for number in range(1000):
        steps.add(f"gone{number}", priority=1000)
    steps.add("open")
    for number in range(1000):
        steps.scheduler.finish(f"gone{number}")
    assert len(steps.scheduler._waiting) < 100
    assert steps.rest() == [["open"]]
