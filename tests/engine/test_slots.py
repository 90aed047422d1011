"""Tests of the choice of a slot for a sequence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import limits, request
from worker_gguf.engine.sequence import Sequence, Slot
from worker_gguf.engine.slots import common_prefix, least_copy, place, reusable

BUSY = Sequence(request("busy"), 0)


def slot(slot_id: int, tokens: list[int] | None = None, *, busy: bool = False, last_used: int = 0) -> Slot:
    return Slot(slot_id, tokens or [], BUSY if busy else None, last_used)


@given(st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 2), max_size=30))
def test_common_prefix_equals_counting(a: list[int], b: list[int]) -> None:
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common_prefix(a, b) == n


def test_the_last_token_is_never_reused() -> None:
    assert reusable([1, 2, 3], [1, 2, 3], n_uncut=0) == 2


def test_a_memory_that_cannot_be_cut_is_reused_whole_or_not_at_all() -> None:
    assert reusable([1, 2], [1, 2, 3], n_uncut=2) == 2
    assert reusable([1, 2, 9], [1, 2, 3, 4], n_uncut=3) == 0


def test_without_an_idle_slot_there_is_no_placement() -> None:
    assert place([slot(0, busy=True)], [1], limits(), reuse=True) is None


def test_the_best_idle_match_is_used_in_place() -> None:
    placement = place([slot(0, [1, 9]), slot(1, [1, 2, 3])], [1, 2, 3, 4], limits(), reuse=True)
    assert placement is not None
    assert (placement.target.id, placement.source.id, placement.n_reused) == (1, 1, 3)


def test_without_a_match_an_empty_slot_goes_before_the_least_recently_used() -> None:
    slots = [slot(0, [5], last_used=1), slot(1, last_used=9), slot(2, [6], last_used=0)]
    placement = place(slots, [1, 2], limits(), reuse=True)
    assert placement is not None
    assert placement.target.id == 1
    placement = place([slots[0], slots[2]], [1, 2], limits(), reuse=True)
    assert placement is not None
    assert placement.target.id == 2


def test_the_prefix_of_a_busy_slot_is_copied_if_it_is_long_enough() -> None:
    tokens = list(range(40))
    placement = place([slot(0, tokens, busy=True), slot(1)], [*tokens, 99], limits(), reuse=True)
    assert placement is not None
    assert (placement.target.id, placement.source.id, placement.n_reused) == (1, 0, 40)
    short = place([slot(0, [1, 2], busy=True), slot(1)], [1, 2, 3], limits(), reuse=True)
    assert short is not None
    assert short.n_reused == 0


def test_between_partitions_only_a_long_prefix_is_copied() -> None:
    given = limits(partitioned=True, n_ctx=8192)
    assert least_copy(given) == 128
    slots = [slot(0, list(range(100)), busy=True), slot(1)]
    placement = place(slots, list(range(101)), given, reuse=True)
    assert placement is not None
    assert placement.n_reused == 0


def test_in_a_partitioned_memory_a_gap_between_busy_slots_is_filled_first() -> None:
    slots = [slot(0, busy=True), slot(1), slot(2, busy=True), slot(3, [1, 2, 3])]
    placement = place(slots, [1, 2, 3, 4], limits(partitioned=True), reuse=True)
    assert placement is not None
    assert placement.target.id == 1
