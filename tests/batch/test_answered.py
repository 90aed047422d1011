"""Tests of the set of answered requests: it is a set, and it stays small."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker_gguf.batch.answered import Answered


@given(st.lists(st.integers(1, 60)))
def test_it_is_a_set_in_any_order_and_with_repetitions(numbers: list[int]) -> None:
    answered, model = Answered(), set[int]()
    for number in numbers:
        assert answered.add(number, number * 1000) is (number not in model)
        model.add(number)
        assert len(answered) == len(model)
    assert {number for number in range(1, 70) if number in answered} == model
    assert answered.last == max(model, default=0)
    assert answered.digest == sum(model) * 1000


@given(st.randoms(use_true_random=False), st.integers(1, 20))
def test_it_keeps_no_more_numbers_than_requests_ran_at_once(chance: object, width: int) -> None:
    answered, running, sent = Answered(), list[int](), 0
    while sent < 500 or running:
        while sent < 500 and len(running) < width:
            sent += 1
            running.append(sent)
        answered.add(running.pop(chance.randrange(len(running))), 1)  # type: ignore[attr-defined]
        assert len(answered._missing) <= width
    assert len(answered) == 500
