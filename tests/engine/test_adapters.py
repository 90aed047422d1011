"""Tests of requests with LoRA adapters, in a scheduler without a model: whose turn it is, and what is kept apart."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.test_scheduler import Drive
from tests.fakes import foretold, limits, successor, with_adapters
from worker_gguf.engine.adapter_turns import MOST_STEPS
from worker_gguf.engine.adapters import AdapterSet, adapter_set, is_adapter_set
from worker_gguf.engine.batch import Copy, Load
from worker_gguf.engine.runner import Limits

NONE: AdapterSet = ()
A: AdapterSet = ((0, 1.0),)
HALF: AdapterSet = ((0, 0.5),)
B: AdapterSet = ((1, 1.0),)
BOTH: AdapterSet = ((0, 1.0), (1, 1.0))


def drive_of(step_s: float = 0.01, switch_s: float = 0.001, prompt_s: float = 0.001, **changes: object) -> Drive:
    """Two adapters. A step takes `step_s` and `prompt_s` more for each token of a prompt."""
    values: dict[str, object] = {"n_adapters": 2, "n_slots": 8, "n_ctx": 2000, "n_cells": 16_000, "n_batch": 512}
    given = limits(**{**values, **changes})

    def seconds(n_rows: int, n_prompt: int) -> float:
        return step_s + prompt_s * n_prompt

    return Drive(given, prefill_chunk=512, seconds=seconds, switch_seconds=switch_s)


def answer(prompt: Sequence[int], n: int, adapters: AdapterSet) -> list[int]:
    return foretold(prompt, n, with_adapters(successor, adapters))


def turns(drive: Drive, since: int = 0) -> list[tuple[AdapterSet, int]]:
    """Return the set and the number of steps of each turn."""
    found: list[tuple[AdapterSet, int]] = []
    for batch in drive.runner.batches[since:]:
        if not batch.chunks:
            continue
        if found and found[-1][0] == batch.adapters:
            found[-1] = (batch.adapters, found[-1][1] + 1)
        else:
            found.append((batch.adapters, 1))
    return found


def begun(drive: Drive, **sets: AdapterSet) -> Drive:
    """Add a long request for each set, and go on until each has begun its answer."""
    for place, (name, adapters) in enumerate(sets.items()):
        drive.add(name, [10 + place, 20], max_tokens=1900, adapters=adapters)
    while len(drive.tokens) < len(sets):
        drive.step()
    return drive


# --- sets -------------------------------------------------------------------------------------------------------------


def test_a_set_is_in_order_and_without_scales_of_zero() -> None:
    assert adapter_set([(1, 1), (0, 0.5), (2, 0)]) == ((0, 0.5), (1, 1.0))
    assert adapter_set([(0, 0.0)]) == NONE


@pytest.mark.parametrize(
    "wrong", [((2, 1.0),), ((-1, 1.0),), ((1, 1.0), (0, 1.0)), ((0, 1.0), (0, 1.0)), ((0, 0.0),), ((0, float("nan")),)]
)
def test_what_is_no_set_of_the_loaded_adapters_never_reaches_a_batch(wrong: AdapterSet) -> None:
    assert not is_adapter_set(wrong, 2)
    drive = drive_of()
    with pytest.raises(AssertionError, match="adapters"):
        drive.add("a", adapters=wrong)
    assert drive.scheduler.is_idle


def test_without_adapters_no_request_can_name_one() -> None:
    assert is_adapter_set(NONE, 0)
    with pytest.raises(AssertionError, match="adapters"):
        drive_of(n_adapters=0).add("a", adapters=A)


# --- turns ------------------------------------------------------------------------------------------------------------


def test_each_request_is_computed_with_its_own_adapters_only() -> None:
    drive = drive_of()
    sets = {"none": NONE, "a": A, "half": HALF, "b": B, "both": BOTH, "a2": A}
    for name, adapters in sets.items():
        drive.add(name, [1, 2, 3], max_tokens=30, adapters=adapters)
    drive.finish()
    for name, adapters in sets.items():
        assert drive.tokens[name] == answer([1, 2, 3], 30, adapters)
    assert drive.tokens["a"] == drive.tokens["a2"]
    assert len({tuple(drive.tokens[name]) for name in sets}) == 5


def test_requests_of_one_set_share_every_step() -> None:
    drive = drive_of()
    for i in range(8):
        drive.add(f"r{i}", [30 + i, 2, 3], max_tokens=10, adapters=A)
    drive.finish()
    assert turns(drive) == [(A, 10)]
    assert drive.runner.n_switches == 1


def test_a_turn_lasts_ten_times_as_long_as_a_switch() -> None:
    drive = begun(drive_of(step_s=0.01, switch_s=0.05), a=A, b=B)
    since = len(drive.runner.batches)
    for _ in range(300):
        drive.step()
    steps = [n for _, n in turns(drive, since)[1:-1]]
    assert set(steps) == {50}


def test_a_turn_is_not_shorter_than_a_tenth_of_a_second_and_not_longer_than_two() -> None:
    for switch_s, step_s, n in ((0.0001, 0.02, 5), (0.5, 0.08, 25), (1.0, 0.08, 38)):
        drive = begun(drive_of(step_s=step_s, switch_s=switch_s), a=A, b=B)
        since = len(drive.runner.batches)
        for _ in range(200):
            drive.step()
        assert {n for _, n in turns(drive, since)[2:-1]} == {n}


def test_each_set_waits_for_a_bounded_number_of_steps_of_each_other_one() -> None:
    drive = begun(drive_of(step_s=0.0), none=NONE, a=A, b=B, both=BOTH)
    since = len(drive.runner.batches)
    for _ in range(1000):
        drive.step()
    found = turns(drive, since)[:-1]
    assert len(found) > 10
    assert all(n <= MOST_STEPS for _, n in found)
    for place in range(len(found) - 4):
        assert len({adapters for adapters, _ in found[place : place + 4]}) == 4


def test_a_set_whose_sequences_have_ended_gives_way_at_once() -> None:
    drive = begun(drive_of(), a=A, b=B)
    drive.step()
    (current,) = {batch.adapters for batch in drive.runner.batches[-1:]}
    name, other = ("a", B) if current == A else ("b", A)
    drive.take(drive.scheduler.finish(name, "cancelled"))
    drive.step()
    assert drive.runner.batches[-1].adapters == other


def test_a_set_that_waits_for_its_turn_and_ends_is_forgotten() -> None:
    drive = begun(drive_of(), a=A, b=B)
    drive.step()
    name, other = ("b", "a") if drive.runner.batches[-1].adapters == A else ("a", "b")
    drive.take(drive.scheduler.finish(name, "cancelled"))
    before = len(drive.tokens[other])
    for _ in range(100):
        drive.step()
    assert len(drive.tokens[other]) == before + 100


def test_a_new_sequence_of_the_set_whose_turn_it_is_joins_at_once() -> None:
    drive = begun(drive_of(), a=A, b=B)
    drive.step()
    current = drive.runner.batches[-1].adapters
    drive.add("new", [5, 6], max_tokens=5, adapters=current)
    drive.step()
    assert drive.runner.batches[-1].adapters == current
    assert drive.tokens["new"]


def test_a_set_that_ran_alone_gives_way_to_a_new_one_at_once() -> None:
    drive = begun(drive_of(), a=A)
    for _ in range(100):
        drive.step()
    drive.add("b", [5, 6], max_tokens=5, adapters=B)
    drive.step()
    assert drive.tokens["b"]


def test_prompts_are_computed_to_the_end_while_nobody_has_begun_to_answer() -> None:
    drive = drive_of()
    drive.add("a", [50] * 1900, max_tokens=50, adapters=A)
    drive.add("b", [60] * 1900, max_tokens=50, adapters=B)
    while "a" not in drive.tokens:
        drive.step()
    assert turns(drive) == [(A, 4)]


def test_a_long_prompt_leaves_turns_to_those_who_have_begun_to_answer() -> None:
    drive = begun(drive_of(), a=A)
    for _ in range(100):
        drive.step()
    drive.add("b", [7] * 1900, max_tokens=5, adapters=B)
    seconds: list[float] = []
    while "b" not in drive.tokens:
        before, batch = len(drive.tokens["a"]), len(drive.runner.batches)
        drive.step()
        taken = sum(0.01 + 0.001 * (b.n_tokens - 1) for b in drive.runner.batches[batch:])
        seconds.append(0.0 if len(drive.tokens["a"]) > before else taken + (seconds[-1] if seconds else 0.0))
    assert 0.2 <= max(seconds) <= 0.4


def test_a_set_that_is_alone_again_computes_prompts_in_whole_steps() -> None:
    drive = begun(drive_of(), a=A)
    for _ in range(100):
        drive.step()
    drive.add("b", [7] * 1900, max_tokens=5, adapters=B)
    while drive.runner.batches[-1].adapters != B:
        drive.step()
    drive.take(drive.scheduler.finish("a", "cancelled"))
    drive.step()
    assert drive.runner.batches[-1].n_tokens == 512


# --- what is kept apart -----------------------------------------------------------------------------------------------


def test_a_prefix_is_reused_by_requests_of_the_same_set_only() -> None:
    drive = drive_of(n_slots=1)
    prompt = [*range(1, 41)]
    for name, adapters, n_cached in (("1", A, 0), ("2", A, 39), ("3", NONE, 0), ("4", HALF, 0), ("5", HALF, 39)):
        drive.add(name, prompt, max_tokens=3, adapters=adapters)
        drive.finish()
        assert drive.endings[name][0].sequence.n_cached == n_cached
        assert drive.tokens[name] == answer(prompt, 3, adapters)


def test_a_running_prefix_is_copied_by_requests_of_the_same_set_only() -> None:
    drive = drive_of()
    prompt = [*range(1, 101)]
    for name, adapters in (("1", A), ("2", A), ("3", B), ("4", B), ("5", NONE)):
        drive.add(name, prompt, max_tokens=20, adapters=adapters)
    drive.finish()
    copies = [op for batch in drive.runner.batches for op in batch.operations if isinstance(op, Copy)]
    assert len(copies) == 2
    assert [drive.endings[name][0].sequence.n_cached for name in "12345"] == [0, 99, 0, 99, 0]


def test_a_saved_state_comes_back_to_requests_of_the_same_set_only() -> None:
    drive = Drive(
        limits(n_slots=1, n_ctx=400, n_cells=400, n_batch=400, n_adapters=2),
        cache_bytes=10_000,
        seconds=lambda n_rows, n_prompt: 0.01 + 0.01 * n_prompt,
    )
    prompt = [*range(1, 301)]
    for name, adapters, n_cached in (("1", A, 0), ("2", B, 0), ("3", A, 299), ("4", B, 299), ("5", NONE, 0)):
        drive.add(name, prompt, max_tokens=2, adapters=adapters)
        drive.finish()
        assert drive.endings[name][0].sequence.n_cached == n_cached
        assert drive.tokens[name] == answer(prompt, 2, adapters)
    assert sum(isinstance(op, Load) for batch in drive.runner.batches for op in batch.operations) == 2


def test_a_request_does_not_wait_for_a_prefix_that_another_set_is_computing() -> None:
    drive = drive_of(n_batch=64)
    for name, adapters in (("a", A), ("a2", A), ("b", B)):
        drive.add(name, [*range(1, 301)], max_tokens=5, adapters=adapters)
    drive.step()
    assert {sequence.id for sequence in drive.scheduler.running} == {"a", "b"}


def test_a_longer_state_of_another_set_replaces_no_saved_state() -> None:
    drive = Drive(
        limits(n_slots=1, n_ctx=400, n_cells=400, n_batch=400, n_adapters=2),
        cache_bytes=10_000,
        seconds=lambda n_rows, n_prompt: 0.01 + 0.01 * n_prompt,
    )
    short, long = [*range(1, 201)], [*range(1, 301)]
    asked = ((long, NONE), (short, A), (long, B), ([7] * 300, NONE), (short, A), (long, NONE), (long, B))
    for place, (prompt, adapters) in enumerate(asked):
        drive.add(f"r{place}", prompt, max_tokens=0, adapters=adapters)
        drive.finish()
    assert [drive.endings[f"r{place}"][0].sequence.n_cached for place in range(7)] == [0, 0, 0, 0, 199, 299, 299]


def test_what_another_slot_holds_of_another_set_does_not_count_as_kept() -> None:
    drive = Drive(
        limits(n_slots=2, n_ctx=400, n_cells=800, n_batch=400, n_adapters=2),
        cache_bytes=10_000,
        seconds=lambda n_rows, n_prompt: 0.01 + 0.01 * n_prompt,
    )
    asked = (([*range(1, 301)], A), ([*range(1, 301)], B), ([7] * 300, NONE), ([*range(1, 301)], A))
    for place, (prompt, adapters) in enumerate(asked):
        drive.add(f"r{place}", prompt, max_tokens=0, adapters=adapters)
        drive.finish()
    assert drive.endings["r3"][0].sequence.n_cached == 299


def test_parts_of_the_memory_are_given_out_so_that_each_set_has_neighbours() -> None:
    drive = drive_of(partitioned=True)
    for i in range(4):
        drive.add(f"a{i}", [50 + i] * 30, max_tokens=40, adapters=A)
        drive.add(f"b{i}", [60 + i] * 30, max_tokens=40, adapters=B)
    drive.step()
    slots = {adapters: [s.slot_id for s in drive.scheduler.running if s.adapters == adapters] for adapters in (A, B)}
    assert sorted(slots[A]) == [0, 1, 2, 3]
    assert sorted(slots[B]) == [4, 5, 6, 7]


@given(n_adapters=st.integers(0, 2), n_slots=st.integers(1, 4), partitioned=st.booleans())
def test_without_adapters_in_use_every_batch_is_the_same(n_adapters: int, n_slots: int, partitioned: bool) -> None:
    def batches(n_adapters: int) -> list[object]:
        n_ctx = 100
        given = Limits(n_slots, n_ctx, n_ctx * n_slots, 32, partitioned=partitioned, n_adapters=n_adapters)
        drive = Drive(given, prefill_chunk=16, seconds=lambda n_rows, n_prompt: 0.01 + 0.001 * n_prompt)
        for i in range(6):
            drive.add(f"r{i}", [1 + i % 3] * (10 + 9 * i), max_tokens=5 + i)
        drive.finish()
        return [(batch.operations, batch.chunks, batch.adapters) for batch in drive.runner.batches]

    assert batches(n_adapters) == batches(0)
