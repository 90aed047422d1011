"""Tests of what is sent next, with a clock and an engine that are simulated."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.batch.conftest import lines
from worker_gguf.batch.agenda import Agenda, Attempt
from worker_gguf.errors import EngineCrashed, EngineFailed, InvalidRequest, NotReady, QueueFull, WorkerError

WITHIN_S = 60.0


def started(agenda: Agenda, now_s: float) -> list[Attempt]:
    attempts = []
    while (attempt := agenda.next(now_s)) is not None:
        attempts.append(attempt)
    return attempts


def numbers(attempts: list[Attempt]) -> list[int]:
    return [attempt.line.number for attempt in attempts]


def agenda(n: int = 6, width: int = 2) -> Agenda:
    return Agenda(iter(lines(*range(n))), width, WITHIN_S)


def test_as_many_run_as_may_and_in_order() -> None:
    todo = agenda()
    first = started(todo, 0)
    assert numbers(first) == [1, 2]
    assert todo.ended(first[1], None, 1)
    assert numbers(started(todo, 1)) == [3]
    assert todo.wait_s(1) is None


def test_an_error_of_the_request_is_its_end() -> None:
    todo = agenda()
    (first, _) = started(todo, 0)
    assert todo.ended(first, InvalidRequest("Bad."), 0)
    assert numbers(started(todo, 0)) == [3]


def test_a_retryable_error_is_tried_twice_more_and_the_last_time_alone() -> None:
    todo = agenda()
    (first, second) = started(todo, 0)
    assert not todo.ended(first, EngineFailed("Failed."), 0)
    assert todo.wait_s(0) == 1
    assert started(todo, 0.5) == []
    (again,) = started(todo, 1)
    assert (again.line.number, again.n_tries) == (1, 2)
    assert not todo.ended(again, NotReady("Not yet.", retry_after_s=3), 1)
    assert started(todo, 3.9) == []
    assert started(todo, 4) == []  # not before the second one has ended
    assert todo.ended(second, None, 4)
    (last,) = started(todo, 4)
    assert (last.line.number, last.n_tries) == (1, 3)
    assert todo.ended(last, EngineFailed("Failed."), 5)
    assert numbers(started(todo, 6)) == [3, 4]


def test_a_full_queue_is_no_try() -> None:
    todo = agenda(1)
    for second in range(0, 100, 2):
        (attempt,) = started(todo, second)
        assert attempt.n_tries == 1
        assert not todo.ended(attempt, QueueFull("Full.", retry_after_s=2), second)
    (attempt,) = started(todo, 100)
    assert todo.ended(attempt, None, 100)


def test_a_full_queue_holds_only_the_refused_request() -> None:
    todo = agenda(6, 3)
    first, second, refused = started(todo, 0)
    assert not todo.ended(refused, QueueFull("Full.", retry_after_s=60), 0)
    assert started(todo, 0) == []  # it counts towards the width
    assert todo.wait_s(0) == 60
    assert todo.ended(first, None, 1)
    again, fourth = started(todo, 1)  # its place, and one more that may find a place
    assert numbers([again, fourth]) == [3, 4]
    assert not todo.ended(fourth, QueueFull("Full.", retry_after_s=5), 2)
    assert not todo.ended(second, EngineFailed("Failed.", retry_after_s=1), 2)
    assert started(todo, 2.9) == []  # another error holds all
    assert numbers(started(todo, 3)) == [4, 2]


def test_a_refused_request_is_sent_again_after_its_time_if_no_other_ends() -> None:
    todo = agenda(2)
    _, refused = started(todo, 0)
    todo.ended(refused, QueueFull("Full.", retry_after_s=5), 0)
    assert started(todo, 4.9) == []
    assert numbers(started(todo, 5)) == [2]
    assert todo.wait_s(5) is None


@given(st.integers(1, 4), st.integers(0, 8), st.integers(1, 12), st.integers(0, 10**9))
def test_no_slot_is_empty_while_requests_are_left(n_slots: int, max_queue: int, width: int, seed: int) -> None:
    """Some requests run in slots and others wait in the queue. The time of a refusal never passes."""
    chance, todo = random.Random(seed), agenda(40, width)
    now_s, running, n_ended = 0.0, list[Attempt](), 0
    while n_ended < 40:
        for attempt in started(todo, now_s):
            if len(running) == n_slots + max_queue:
                assert not todo.ended(attempt, QueueFull("Full.", retry_after_s=10**6), now_s)
            else:
                running.append(attempt)
        assert len(running) >= min(n_slots, width, 40 - n_ended)
        now_s += 1
        assert todo.ended(running.pop(chance.randrange(len(running))), None, now_s)
        n_ended += 1


@given(st.integers(0, 10**9), st.sets(st.integers(1, 30)), st.integers(1, 8))
def test_requests_that_end_the_engine_get_the_only_errors_and_the_engine_is_never_given_up(
    seed: int, poison: set[int], width: int
) -> None:
    chance, todo = random.Random(seed), agenda(30, width)
    now_s, running, deaths, ends = 0.0, list[Attempt](), list[float](), dict[int, WorkerError | None]()

    def end(attempt: Attempt, error: WorkerError | None) -> None:
        if todo.ended(attempt, error, now_s):
            assert attempt.line.number not in ends
            ends[attempt.line.number] = error

    while True:
        running += started(todo, now_s)
        if not running:
            if (wait_s := todo.wait_s(now_s)) is None:
                break
            now_s += wait_s
            continue
        now_s += chance.uniform(0.01, 2)
        attempt = running[chance.randrange(len(running))]
        if attempt.line.number in poison:
            deaths.append(now_s)
            crashed, running = running, []
            for other in crashed:
                end(other, EngineCrashed.because("The process died."))
        else:
            running.remove(attempt)
            end(attempt, None)
    assert ends.keys() == set(range(1, 31))
    assert {number for number, error in ends.items() if error is not None} == poison
    assert all(third - first >= WITHIN_S for first, third in zip(deaths, deaths[2:], strict=False))
