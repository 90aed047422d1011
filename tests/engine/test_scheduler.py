"""Tests of the scheduler, driven step by step: no model, no clock, no thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.fakes import EOG, FakeRunner, foretold, limits, request, successor, with_adapters
from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.batch import Batch, Copy, Load, Sampled, StepResult, Truncate
from worker_gguf.engine.request import SamplingParams
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.scheduler import PLACES_PER_PRIORITY, Scheduler
from worker_gguf.engine.updates import Ended, Token, Update
from worker_gguf.errors import DeadlineExceeded, EngineFailed, QueueFull


class Drive:
    """A scheduler and a fake runner, and their results for each request."""

    def __init__(
        self,
        given: Limits,
        max_queue: int = 100,
        prefill_chunk: int | None = None,
        cache_bytes: int = 0,
        **runner: object,
    ) -> None:
        self.scheduler = Scheduler(
            given,
            eog=frozenset({EOG}),
            max_queue=max_queue,
            prefill_chunk=prefill_chunk,
            cache_bytes=cache_bytes,
        )
        self.runner = FakeRunner(given, **runner)  # type: ignore[arg-type]
        self.tokens: dict[str, list[int]] = {}
        self.endings: dict[str, list[Ended]] = {}

    def take(self, updates: list[Update]) -> None:
        for update in updates:
            if isinstance(update, Token):
                self.tokens.setdefault(update.sequence.id, []).append(update.token)
            elif isinstance(update, Ended):
                self.endings.setdefault(update.sequence.id, []).append(update)

    def add(self, *args: object, **kwargs: object) -> None:
        self.scheduler.add(request(*args, **kwargs))  # type: ignore[arg-type]

    def step(self, *, refuse: bool = False) -> bool:
        """`refuse` makes the memory refuse the batch, as it may while it holds more than one sequence."""
        batch = self.scheduler.schedule()
        if batch is None:
            return False
        if refuse and batch.chunks and len(self.scheduler.running) > 1:
            self.runner.next_results = [StepResult(no_space=True)]
        self.take(self.scheduler.commit(batch, self.runner.run(batch)))
        return True

    def finish(self, most: int = 10_000) -> None:
        for _ in range(most):
            if not self.step():
                return
        raise AssertionError("the scheduler does not come to an end")

    def reason(self, request_id: str) -> str:
        (ending,) = self.endings[request_id]
        return ending.reason


def test_a_request_draws_the_tokens_that_its_history_decides() -> None:
    drive = Drive(limits())
    drive.add("a", [5, 6, 7], max_tokens=5)
    drive.finish()
    assert drive.tokens["a"] == foretold([5, 6, 7], 5)
    assert drive.reason("a") == "length"


def test_an_end_of_generation_token_ends_the_answer_and_is_not_part_of_it() -> None:
    drive = Drive(limits(), draw=lambda history: EOG if len(history) == 5 else 9)
    drive.add("a", [1, 2, 3], max_tokens=50)
    drive.finish()
    assert drive.tokens["a"] == [9, 9]
    assert drive.reason("a") == "stop"


def test_ignore_eos_continues_after_an_end_of_generation_token() -> None:
    drive = Drive(limits(), draw=lambda _: EOG)
    drive.add("a", max_tokens=3, sampling=SamplingParams(ignore_eos=True))
    drive.finish()
    assert drive.tokens["a"] == [EOG] * 3


def test_the_answer_ends_where_the_context_does() -> None:
    drive = Drive(limits(n_ctx=10))
    drive.add("a", [1] * 7, max_tokens=None)
    drive.finish()
    assert len(drive.tokens["a"]) == 3
    assert drive.reason("a") == "length"


def test_zero_tokens_compute_the_prompt_and_draw_nothing() -> None:
    drive = Drive(limits())
    drive.add("a", [1, 2, 3, 4], max_tokens=0)
    drive.finish()
    assert drive.reason("a") == "length"
    assert "a" not in drive.tokens
    drive.add("b", [1, 2, 3, 4, 5], max_tokens=1)
    drive.finish()
    assert drive.endings["b"][0].sequence.n_cached == 4


def test_a_reset_ends_every_request_and_empties_the_memory() -> None:
    drive = Drive(limits(n_slots=2))
    drive.add("old", [1, 2, 3], max_tokens=1)
    drive.finish()
    drive.add("a", [7, 8, 9], max_tokens=9)
    drive.step()
    drive.take(drive.scheduler.reset(EngineFailed("who knows")))
    assert drive.reason("a") == "error"
    assert drive.scheduler.memory.n_held == 0
    drive.add("b", [1, 2, 3], max_tokens=2)
    drive.finish()
    assert drive.endings["b"][0].sequence.n_cached == 0
    assert drive.tokens["b"] == foretold([1, 2, 3], 2)


def test_a_full_queue_refuses_the_next_one_and_keeps_the_others() -> None:
    drive = Drive(limits(n_slots=2), max_queue=1)
    for name in "abc":
        drive.add(name)
    with pytest.raises(QueueFull):
        drive.add("d")
    drive.finish()
    assert {drive.reason(name) for name in "abc"} == {"length"}


def test_first_come_first_served() -> None:
    drive = Drive(limits(n_slots=1))
    for name in "abc":
        drive.add(name, [ord(name), 1])
    drive.finish()
    assert drive.runner.opened == ["a", "b", "c"]


def test_a_long_prompt_is_prefilled_in_chunks_next_to_a_running_decode() -> None:
    drive = Drive(limits(n_batch=16), prefill_chunk=4)
    drive.add("short", [1, 2], max_tokens=20)
    drive.step()
    drive.add("long", list(range(10, 40)), max_tokens=1)
    drive.step()  # shows what decoding alone costs
    before = len(drive.tokens["short"])
    drive.step()
    sizes = {chunk.slot: len(chunk.tokens) for chunk in drive.runner.batches[-1].chunks}
    assert sorted(sizes.values()) == [1, 4]
    assert len(drive.tokens["short"]) == before + 1
    drive.finish()
    assert drive.tokens["long"] == foretold(range(10, 40), 1)


def test_cancel_frees_the_slot_before_the_next_step() -> None:
    drive = Drive(limits(n_slots=1))
    drive.add("a", max_tokens=50)
    drive.add("b")
    drive.step()
    drive.take(drive.scheduler.finish("a", "cancelled"))
    drive.step()
    assert drive.runner.opened == ["a", "b"]
    assert drive.reason("a") == "cancelled"


def test_a_waiting_request_can_be_cancelled() -> None:
    drive = Drive(limits(n_slots=1))
    drive.add("a")
    drive.add("b")
    drive.step()
    drive.take(drive.scheduler.finish("b", "cancelled"))
    drive.finish()
    assert drive.reason("b") == "cancelled"
    assert "b" not in drive.runner.opened


def test_a_request_that_waited_too_long_is_refused_unless_it_has_had_a_slot() -> None:
    drive = Drive(limits(n_slots=1))
    drive.scheduler.add(request("a", max_tokens=50), start_by_s=10.0)
    drive.scheduler.add(request("b"), start_by_s=10.0)
    drive.step()
    assert drive.scheduler.expire(9.9) == []
    (ended,) = drive.scheduler.expire(10.0, retry_after_s=7)
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, QueueFull)
    assert (ended.sequence.id, ended.error.retry_after_s) == ("b", 7)


def test_a_request_that_waits_for_memory_again_has_had_a_slot() -> None:
    drive = Drive(limits(n_slots=2, n_ctx=30, n_cells=30))
    drive.scheduler.add(request("old", [1] * 10, max_tokens=15), start_by_s=10.0)
    drive.scheduler.add(request("young", [2] * 10, max_tokens=15), start_by_s=10.0)
    drive.step()
    assert len(drive.scheduler.running) == 2
    while not drive.scheduler.waiting:
        drive.step()
    assert drive.scheduler.expire(10.0) == []


def test_a_deadline_ends_running_and_waiting_requests() -> None:
    drive = Drive(limits(n_slots=1))
    drive.add("a", deadline_s=10.0, max_tokens=50)
    drive.add("b", deadline_s=10.0)
    drive.step()
    assert drive.scheduler.expire(9.9) == []
    drive.take(drive.scheduler.expire(10.0))
    for name in "ab":
        (ending,) = drive.endings[name]
        assert isinstance(ending.error, DeadlineExceeded)
        assert "Send a longer timeout" in ending.error.message
    drive.finish()
    assert drive.scheduler.is_idle


def test_the_next_request_claims_the_longest_prefix_in_place() -> None:
    drive = Drive(limits(n_slots=2))
    drive.add("a", [1, 2, 3, 4, 5, 6], max_tokens=2)
    drive.finish()
    drive.add("b", [1, 2, 3, 4, 9, 9], max_tokens=2)
    drive.finish()
    assert drive.endings["b"][0].sequence.n_cached == 4
    assert drive.tokens["b"] == foretold([1, 2, 3, 4, 9, 9], 2)


def test_a_whole_cached_prompt_still_computes_its_last_token() -> None:
    drive = Drive(limits())
    for name in "ab":
        drive.add(name, [1, 2, 3], max_tokens=2)
        drive.finish()
    assert drive.endings["b"][0].sequence.n_cached == 2
    assert drive.tokens["b"] == drive.tokens["a"]


def test_cache_prompt_false_computes_everything() -> None:
    drive = Drive(limits())
    for name in "ab":
        drive.add(name, [1, 2, 3], cache_prompt=False)
        drive.finish()
    assert drive.endings["b"][0].sequence.n_cached == 0


def test_a_long_prefix_of_a_busy_slot_is_copied() -> None:
    drive = Drive(limits(n_batch=64, n_ctx=100, n_cells=400))
    prompt = list(range(1, 41))
    drive.add("a", prompt, max_tokens=30)
    drive.step()
    drive.add("b", [*prompt, 50], max_tokens=3)
    drive.step()
    assert any(isinstance(operation, Copy) for operation in drive.runner.batches[-1].operations)
    drive.finish()
    assert drive.endings["b"][0].sequence.n_cached == 40
    assert drive.tokens["b"] == foretold([*prompt, 50], 3)


def test_a_prefix_that_is_being_computed_is_waited_for() -> None:
    drive = Drive(limits(n_slots=3, n_batch=16, n_ctx=300, n_cells=900))
    prompt = list(range(1, 201))
    for name in "abc":
        drive.add(name, [*prompt, ord(name)], max_tokens=3)
    drive.finish()
    computed = sum(batch.n_tokens for batch in drive.runner.batches)
    assert computed < 1.3 * len(prompt)
    for name in "abc":
        assert drive.tokens[name] == foretold([*prompt, ord(name)], 3)


def test_a_memory_that_cannot_be_cut_is_reused_only_whole() -> None:
    drive = Drive(limits(prefix="whole", n_slots=1))
    drive.add("a", [1, 2, 3], max_tokens=3)
    drive.finish()
    held = list(drive.runner.memory[0])
    drive.add("b", [*held, 8, 9], max_tokens=2)
    drive.finish()
    assert drive.endings["b"][0].sequence.n_cached == len(held)
    drive.add("c", [1, 2, 7], max_tokens=2)
    drive.finish()
    assert drive.endings["c"][0].sequence.n_cached == 0
    assert drive.tokens["c"] == foretold([1, 2, 7], 2)


def test_a_full_memory_makes_the_youngest_wait_and_loses_no_token() -> None:
    drive = Drive(limits(n_slots=3, n_ctx=40, n_cells=48, n_batch=8))
    for name in "abc":
        drive.add(name, [ord(name)] * 6, max_tokens=25)
    drive.finish()
    for name in "abc":
        assert drive.tokens[name] == foretold([ord(name)] * 6, 25)
        assert drive.reason(name) == "length"
    # At least one request had to start again, but never the oldest.
    assert len(drive.runner.opened) > 3
    assert drive.runner.opened.count("a") == 1


def test_idle_prefixes_are_dropped_before_a_sequence_has_to_wait() -> None:
    drive = Drive(limits(n_slots=3, n_ctx=40, n_cells=48, n_batch=48))
    drive.add("old", [3] * 30, max_tokens=2)
    drive.finish()
    drive.add("new", [4] * 30, max_tokens=2)
    drive.finish()
    assert drive.runner.opened == ["old", "new"]
    assert any(
        isinstance(operation, Truncate) and operation.n_tokens == 0
        for batch in drive.runner.batches
        for operation in batch.operations
    )


def test_a_batch_that_the_memory_refused_is_tried_again_after_making_room() -> None:
    drive = Drive(limits())
    drive.add("a", max_tokens=3)
    drive.add("b", [7, 8], max_tokens=3)
    drive.runner.next_results = [StepResult(no_space=True)]
    drive.finish()
    assert drive.tokens["a"] == foretold([1, 2, 3], 3)
    assert drive.tokens["b"] == foretold([7, 8], 3)


def test_a_memory_that_always_refuses_ends_the_last_request_with_an_error() -> None:
    drive = Drive(limits())
    drive.add("a")
    drive.runner.next_results = [StepResult(no_space=True)] * 10
    drive.finish()
    assert isinstance(drive.endings["a"][0].error, EngineFailed)


def test_a_failed_step_ends_its_requests_and_empties_their_slots() -> None:
    drive = Drive(limits(n_slots=2))
    drive.add("a")
    drive.add("b", [9, 9])
    drive.runner.next_results = [StepResult(error=EngineFailed("broken"))]
    drive.finish()
    assert {drive.reason(name) for name in "ab"} == {"error"}
    drive.runner.memory = [[] for _ in drive.runner.memory]
    drive.add("c")
    drive.finish()
    assert drive.tokens["c"] == foretold([1, 2, 3], 4)


def test_a_request_whose_sampler_cannot_be_made_ends_alone() -> None:
    drive = Drive(limits())
    drive.add("a")
    drive.runner.next_results = [StepResult(refused=((0, EngineFailed("no sampler")),))]
    drive.step()
    drive.runner.memory[0] = [1, 2, 3]
    drive.add("b", [1, 2, 4], max_tokens=2)
    drive.finish()
    assert drive.reason("a") == "error"
    assert drive.tokens["b"] == foretold([1, 2, 4], 2)


def test_partitioned_slots_stay_together() -> None:
    drive = Drive(limits(n_slots=4, partitioned=True, n_cells=256))
    for name in "abc":
        drive.add(name, [ord(name)], max_tokens=30)
    drive.step()
    drive.take(drive.scheduler.finish("b", "cancelled"))
    drive.add("d", [4], max_tokens=30)
    drive.step()
    assert [chunk.slot for chunk in drive.runner.batches[-1].chunks] == [0, 1, 2]


# With no adapter, the first one; with one adapter, the first two; with two, all.
SETS: list[AdapterSet] = [(), ((0, 1.0),), ((1, 0.5),), ((0, 1.0), (1, 1.0)), ((0, 2.0),)]


def repetitive(history: Sequence[int]) -> int:
    """Draw from few tokens by the last two, so that most answers soon repeat themselves, and some end."""
    return (history[-1] * 3 + history[-2] + 1) % 7 if len(history) > 1 else 1


@dataclass(frozen=True, slots=True)
class Script:
    """The limits and costs of an engine, and what happens to it."""

    limits: Limits
    prefill_chunk: int | None
    cache_bytes: int
    draw: Callable[[Sequence[int]], int]
    row_seconds: float
    n_forced: int
    steps: list[tuple[str, int, int]]

    def drive(self) -> Drive:
        return Drive(
            self.limits,
            max_queue=5,
            prefill_chunk=self.prefill_chunk,
            cache_bytes=self.cache_bytes,
            draw=self.draw,
            seconds=lambda n_rows, n_prompt: 0.01 + self.row_seconds * n_rows + 0.02 * n_prompt,
            forced=lambda history: len(history) % (1 + self.n_forced),
        )

    def answer(self, prompt: list[int], most: int, adapters: AdapterSet) -> tuple[list[int], str]:
        """Return the tokens and the reason of an answer that nothing interrupts."""
        history, draw = list(prompt), with_adapters(self.draw, adapters)
        while len(history) < self.limits.n_ctx and len(history) - len(prompt) < most:
            if (token := draw(history)) == EOG:
                return history[len(prompt) :], "stop"
            history.append(token)
        return history[len(prompt) :], "length"


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    n_ctx = draw(st.integers(8, 40))
    partitioned = draw(st.booleans())
    n_slots = draw(st.integers(1, 4))
    given = limits(
        n_slots=n_slots,
        n_ctx=n_ctx,
        n_cells=n_ctx * n_slots if partitioned else draw(st.integers(n_ctx, n_ctx * n_slots)),
        n_batch=draw(st.integers(max(n_slots, 2), 32)),
        partitioned=partitioned,
        prefix=(prefix := draw(st.sampled_from(["any", "whole"]))),
        saved_prefix=draw(st.sampled_from(["any", "whole"])) if prefix == "any" else "whole",
        n_rows=n_slots + draw(st.integers(0, 8)),
        n_adapters=draw(st.sampled_from([0, 0, 1, 2])),
    )
    action = st.sampled_from(["add", "add", "add", "cancel", "step", "step", "no_space", "lose"])
    return Script(
        given,
        draw(st.none() | st.integers(1, 8)),
        draw(st.sampled_from([0, 10, 30, 100])),
        draw(st.sampled_from([successor, repetitive])),
        draw(st.sampled_from([0.0, 0.001, 0.1])),
        draw(st.sampled_from([0, 0, 3, 20])),
        draw(st.lists(st.tuples(action, st.integers(0, 10**6), st.integers(0, 10**6)), max_size=60)),
    )


@settings(max_examples=400)
@given(scripts())
def test_any_interleaving_ends_each_request_once_with_its_own_tokens(script: Script) -> None:
    given, drive = script.limits, script.drive()
    asked: dict[str, tuple[list[int], int, AdapterSet]] = {}
    cancelled: set[str] = set()
    for i, (action, x, y) in enumerate(script.steps):
        name = f"r{i}"
        if action == "add":
            # Few different prompts, many shared beginnings.
            prompt = [1 + (j * (x % 3)) % 7 for j in range(1 + y % (given.n_ctx - 1))]
            adapters = SETS[: 1 + given.n_adapters**2][y % 5 % (1 + given.n_adapters**2)]
            try:
                drive.add(name, prompt, max_tokens=x % 9, priority=y % 3, adapters=adapters)
            except QueueFull:
                continue
            asked[name] = prompt, x % 9, adapters
        elif action == "cancel" and asked:
            name = sorted(asked)[x % len(asked)]
            if name not in drive.endings:
                cancelled.add(name)
            drive.take(drive.scheduler.finish(name, "cancelled"))
        else:
            drive.runner.loses = action == "lose"
            drive.step(refuse=action == "no_space")
    drive.finish()
    assert set(drive.endings) == set(asked)
    for name, (prompt, most, adapters) in asked.items():
        tokens, reason = script.answer(prompt, most, adapters)
        drawn = drive.tokens.get(name, [])
        assert drawn == tokens[: len(drawn)]
        assert drive.reason(name) == ("cancelled" if name in cancelled else reason)
        assert name in cancelled or drawn == tokens
    assert all(slot.is_idle for slot in drive.scheduler.memory.slots)
    assert drive.scheduler.is_idle
    assert not drive.runner.open
    assert [slot.tokens for slot in drive.scheduler.memory.slots] == drive.runner.memory
    cache = drive.scheduler.memory.cache
    assert sum(map(len, drive.runner.states.values())) == (cache.n_bytes if cache else 0) <= script.cache_bytes


# --- several tokens in a step -----------------------------------------------------------------------------------------


def guess(drive: Drive, *guesses: int) -> Batch:
    """Run one step in which the one decoding sequence guesses its next tokens."""
    batch = drive.scheduler.schedule()
    assert batch is not None
    (chunk,) = batch.chunks
    guessing = replace(chunk, tokens=[*chunk.tokens, *guesses], n_outputs=1 + len(guesses))
    batch = replace(batch, chunks=(guessing,))
    drive.take(drive.scheduler.commit(batch, drive.runner.run(batch)))
    return batch


def prefilled(max_tokens: int = 12, **runner: Any) -> Drive:
    drive = Drive(limits(n_rows=8), **runner)
    drive.add("a", [5, 6, 7], max_tokens=max_tokens)
    drive.step()
    return drive


@pytest.mark.parametrize("n_right", [0, 1, 3])
def test_right_guesses_are_tokens_of_the_answer_and_wrong_ones_leave_no_trace(n_right: int) -> None:
    drive = prefilled()
    future = foretold([5, 6, 7], 12)
    wrong = [token + 1 for token in future[1 + n_right : 4]]
    guess(drive, *future[1 : 1 + n_right], *wrong)
    assert drive.tokens["a"] == future[: 2 + n_right]
    drive.finish()
    assert drive.tokens["a"] == future
    assert drive.scheduler.memory.slots[0].tokens == drive.runner.memory[0]


def test_a_guessed_step_may_follow_another() -> None:
    drive = prefilled()
    future = foretold([5, 6, 7], 12)
    guess(drive, *future[1:4])
    guess(drive, future[5], future[6] + 1)
    guess(drive, *future[7:9])
    assert drive.tokens["a"] == future[: len(drive.tokens["a"])]
    assert len(drive.tokens["a"]) == 1 + 4 + 2 + 3
    drive.finish()
    assert drive.tokens["a"] == future


def test_the_limit_of_tokens_counts_inside_a_guessed_step() -> None:
    drive = prefilled(max_tokens=3)
    future = foretold([5, 6, 7], 6)
    guess(drive, *future[1:5])
    assert drive.tokens["a"] == future[:3]
    assert drive.reason("a") == "length"
    (ending,) = drive.endings["a"]
    assert ending.sequence.n_generated == 3


def test_an_end_of_generation_token_ends_a_guessed_step() -> None:
    drive = prefilled(draw=lambda history: EOG if len(history) == 5 else 9)
    guess(drive, 9, EOG, 9)
    assert drive.tokens["a"] == [9, 9]
    assert drive.reason("a") == "stop"


def test_after_a_guessed_end_the_slot_holds_only_computed_tokens() -> None:
    drive = prefilled(max_tokens=3)
    future = foretold([5, 6, 7], 6)
    guess(drive, *future[1:5])
    drive.add("b", [5, 6, 7, *future[:4], 99], max_tokens=2)
    drive.finish()
    assert drive.tokens["b"] == foretold([5, 6, 7, *future[:4], 99], 2)
    assert drive.endings["b"][0].sequence.n_cached == 7


def test_tokens_forced_after_a_drawn_one_are_computed_together() -> None:
    drive = prefilled()
    batch = drive.scheduler.schedule()
    assert batch is not None
    drive.runner.run(batch)
    drive.take(drive.scheduler.commit(batch, StepResult((Sampled(0, (40, 41, 42)),))))
    assert drive.tokens["a"][-3:] == [40, 41, 42]
    following = drive.scheduler.schedule()
    assert following is not None
    (chunk,) = following.chunks
    assert (chunk.tokens, chunk.n_outputs) == ([40, 41, 42], 1)


def test_a_sequence_with_forced_tokens_leaves_room_for_prompts_within_the_batch() -> None:
    drive = Drive(limits(n_batch=8), prefill_chunk=8)
    drive.add("a", [1, 2, 3], max_tokens=20)
    drive.step()
    batch = drive.scheduler.schedule()
    assert batch is not None
    drive.runner.run(batch)
    drive.take(drive.scheduler.commit(batch, StepResult((Sampled(0, (40, 41, 42)),))))
    drive.add("b", list(range(20, 40)), max_tokens=1)
    following = drive.scheduler.schedule()
    assert following is not None
    assert [len(chunk.tokens) for chunk in following.chunks] == [3, 5]


def test_forced_tokens_beside_others_come_one_by_one_where_each_pass_costs_a_step() -> None:
    """In a partitioned memory, a second token of one sequence is a pass of its own."""
    widths = {}
    for partitioned in (True, False):
        drive = Drive(
            limits(partitioned=partitioned, n_ctx=100, n_cells=200, n_batch=64),
            seconds=lambda *_: 1.0,
            forced=lambda history: int(len(history) % 7 == 0),
        )
        drive.add("a", [1, 2, 3], max_tokens=60)
        drive.add("b", [4, 5, 6, 7, 8], max_tokens=60)
        drive.finish()
        for name, prompt in (("a", [1, 2, 3]), ("b", [4, 5, 6, 7, 8])):
            assert drive.tokens[name] == foretold(prompt, 60)
        together = [batch.chunks for batch in drive.runner.batches if len(batch.chunks) == 2]
        widths[partitioned] = {len(chunk.tokens) for chunks in together[2:] for chunk in chunks if chunk.is_decoding}
    assert widths == {True: {1}, False: {1, 2}}


# --- guesses ----------------------------------------------------------------------------------------------------------


def drawing_itself(*, cost: float) -> Drive:
    """A sequence that repeats three tokens, in an engine where each further row costs so much of a step."""
    drive = Drive(
        limits(n_slots=1, n_ctx=500, n_cells=500, n_batch=64, n_rows=17),
        draw=lambda history: 1 + len(history) % 3,
        seconds=lambda n_rows, n_prompt: 1.0 + cost * (n_rows - 1) + 0.01 * n_prompt,
    )
    drive.add("a", [1, 2], max_tokens=200)
    drive.finish()
    return drive


def test_a_sequence_that_repeats_itself_takes_few_steps_where_rows_cost_little() -> None:
    drive = drawing_itself(cost=0.05)
    assert drive.tokens["a"] == [1 + (2 + i) % 3 for i in range(200)]
    assert len(drive.runner.batches) < 60


def test_where_each_row_costs_a_whole_step_guesses_are_not_worth_it() -> None:
    drive = drawing_itself(cost=1.0)
    n_guesses = sum(chunk.n_outputs - 1 for batch in drive.runner.batches for chunk in batch.chunks if chunk.n_outputs)
    assert n_guesses < 40  # those that showed the cost


def test_a_sequence_whose_guesses_are_wrong_stops_guessing() -> None:
    script = [1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3, 7, 1, 2, 3, 6, 1, 2, 3, 5]
    drive = Drive(
        limits(n_slots=1, n_ctx=500, n_cells=500, n_batch=64, n_rows=17),
        draw=lambda history: script[len(history) % 20] + 10 * (len(history) // 20 * (len(history) % 4 == 3)),
        seconds=lambda n_rows, n_prompt: 1.0 + 0.2 * (n_rows - 1) + 0.01 * n_prompt,
    )
    drive.add("a", [1, 2, 3], max_tokens=400)
    drive.finish()
    guessed = [sum(chunk.n_outputs - 1 for chunk in batch.chunks) for batch in drive.runner.batches[-100:]]
    assert sum(guessed) < 100
    assert len(drive.tokens["a"]) == 400


def test_guesses_never_make_another_sequence_wait() -> None:
    drive = Drive(
        limits(n_slots=2, n_ctx=40, n_cells=46, n_batch=64, n_rows=10),
        draw=lambda history: 1 + len(history) % 3,
        seconds=lambda n_rows, n_prompt: 1.0 + 0.01 * n_prompt,
    )
    drive.add("a", [1, 2], max_tokens=20)
    drive.add("b", [3, 2], max_tokens=20)
    drive.finish()
    assert drive.runner.opened == ["a", "b"]


# --- order and fairness -----------------------------------------------------------------------------------------------


def test_a_lower_priority_goes_first() -> None:
    drive = Drive(limits(n_slots=1))
    drive.add("first", [1, 2])
    drive.step()
    for name, priority in (("later", 1), ("normal", 0), ("urgent", -1)):
        drive.add(name, [1, 2], priority=priority)
    drive.finish()
    assert drive.runner.opened == ["first", "urgent", "normal", "later"]


@settings(max_examples=50)
@given(st.integers(1, 2), st.integers(1, 3))
def test_a_request_of_low_priority_is_passed_by_a_bounded_number_of_others(n_slots: int, behind: int) -> None:
    drive = Drive(limits(n_slots=n_slots), max_queue=1000)
    drive.add("patient", [1, 2], max_tokens=1, priority=behind)
    for i in range(behind * PLACES_PER_PRIORITY + 10):
        drive.add(f"r{i}", [1, 2], max_tokens=1)
        drive.add(f"s{i}", [1, 2], max_tokens=1)
        if "patient" in drive.endings:
            break
        drive.step()
    drive.finish()
    assert drive.runner.opened.index("patient") <= behind * PLACES_PER_PRIORITY + n_slots


def fair_engine(fixed: float = 0.0, **changes: Any) -> Drive:
    """Eight decoding sequences; a step of eight rows takes 0.01 s, prompts a fixed time and 0.0001 s a token."""
    drive = Drive(
        limits(n_slots=9, n_ctx=5000, n_cells=9000, n_batch=512, n_rows=9, **changes),
        prefill_chunk=512,
        seconds=lambda n_rows, n_prompt: 0.002 + 0.001 * n_rows + (0.0001 * n_prompt + fixed if n_prompt else 0.0),
    )
    for i in range(8):
        drive.add(f"s{i}", [10 + i, 20], max_tokens=500)
    for _ in range(20):
        drive.step()
    return drive


@pytest.mark.parametrize("fixed", [0.0, 0.005])
def test_a_long_prompt_takes_half_as_long_again_as_the_sequences_beside_it(fixed: float) -> None:
    drive = fair_engine(fixed)
    drive.add("long", [7] * 4000, max_tokens=1)
    sizes = []
    while "long" not in drive.endings:
        drive.step()
        sizes.append(drive.runner.batches[-1].n_tokens - 8)
    most = (0.015 - fixed) / 0.0001
    assert max(sizes) <= 1.1 * most
    assert min(sizes[20:-1]) >= 0.6 * most


def test_the_parts_of_a_long_prompt_keep_to_their_time_though_each_token_takes_longer_than_the_one_before() -> None:
    drive = fair_engine()
    steps: list[float] = []
    done = 0

    def seconds(n_rows: int, n_prompt: int) -> float:
        nonlocal done
        done += n_prompt
        steps.append(0.01 + n_prompt * (0.0001 + 0.0000003 * done))
        return steps[-1]

    drive.runner.seconds = seconds
    drive.add("long", [7] * 4000, max_tokens=1)
    while "long" not in drive.endings:
        drive.step()
    assert max(steps) <= 1.25 * 0.025
    assert max(steps[10:]) <= 1.1 * 0.025
    assert min(steps[20:-1]) >= 0.9 * 0.025


def test_a_short_prompt_is_computed_at_once_beside_a_long_one() -> None:
    drive = fair_engine()
    drive.add("long", [7] * 4000, max_tokens=1)
    for _ in range(5):
        drive.step()
    drive.take(drive.scheduler.finish("s0", "cancelled"))
    drive.add("short", [8] * 150, max_tokens=5)
    drive.step()
    assert len(drive.tokens["short"]) == 1


def test_many_prompts_beside_one_sequence_are_not_held_up_by_it() -> None:
    drive = fair_engine()
    for i in range(7):
        drive.take(drive.scheduler.finish(f"s{i}", "cancelled"))
    for i in range(8):
        drive.add(f"p{i}", [10 + i] * 100, max_tokens=1)
    drive.step()
    assert drive.runner.batches[-1].n_tokens > 500


# --- the prompt cache -------------------------------------------------------------------------------------------------


def cached(n_slots: int = 1, cache_bytes: int = 1000, **changes: Any) -> Drive:
    """An engine that knows the costs of its steps and has a prompt cache of one byte for each token."""
    given = limits(n_slots=n_slots, **{"n_ctx": 100, "n_cells": 100 * n_slots, "n_batch": 100, **changes})
    drive = Drive(given, cache_bytes=cache_bytes, seconds=lambda n_rows, n_prompt: 0.01 + 0.01 * n_prompt)
    drive.add("before", [99, 98], max_tokens=3)
    drive.finish()
    drive.runner.opened.clear()
    drive.runner.batches.clear()
    del drive.tokens["before"]
    return drive


def test_a_conversation_that_lost_its_slot_comes_back_from_the_cache() -> None:
    drive = cached()
    drive.add("a", list(range(1, 41)), max_tokens=2)
    drive.finish()
    drive.add("b", [50] * 40, max_tokens=2)
    drive.finish()
    prompt = [*range(1, 41), *drive.tokens["a"], 60]
    drive.add("again", prompt, max_tokens=3)
    drive.finish()
    assert drive.tokens["again"] == foretold(prompt, 3)
    assert drive.endings["again"][0].sequence.n_cached == 41
    drive.add("b again", [50] * 40, max_tokens=2)
    drive.finish()
    assert drive.endings["b again"][0].sequence.n_cached == 39


def test_without_cache_prompt_nothing_is_loaded() -> None:
    drive = cached()
    for name in ("a", "b", "a again"):
        drive.add(
            name, list(range(1, 41)) if name[0] == "a" else [50] * 40, max_tokens=2, cache_prompt=name != "a again"
        )
        drive.finish()
    assert drive.endings["a again"][0].sequence.n_cached == 0


def test_the_least_recently_used_state_is_dropped_for_a_new_one() -> None:
    drive = cached(cache_bytes=100)
    for first in (1, 2, 3, 4):
        drive.add(f"r{first}", [first] * 40, max_tokens=1)
        drive.finish()
    held = [tokens[0] for tokens in drive.runner.states.values()]
    assert held == [2, 3]  # 4 is in the slot


def test_a_state_larger_than_the_cache_drops_nothing_for_itself() -> None:
    drive = cached(cache_bytes=50)
    for first, n in ((1, 30), (2, 60), (3, 30), (4, 30)):
        drive.add(f"r{first}", [first] * n, max_tokens=1)
        drive.finish()
    assert [tokens[0] for tokens in drive.runner.states.values()] == [3]


def test_a_state_that_cannot_be_loaded_is_computed_anew() -> None:
    drive = cached()
    for name, first in (("a", 1), ("b", 2)):
        drive.add(name, [first] * 40, max_tokens=2)
        drive.finish()
    drive.runner.loses = True
    drive.add("again", [1] * 40, max_tokens=2)
    drive.finish()
    assert drive.tokens["again"] == drive.tokens["a"]
    assert drive.endings["again"][0].sequence.n_cached == 0


@pytest.mark.parametrize("n_shared", [20, 40])
def test_a_prefix_that_the_memory_lost_is_computed_anew(n_shared: int) -> None:
    """Cut in its own slot, or copied from a busy one."""
    drive = Drive(limits(n_slots=2, n_ctx=100, n_cells=200, n_batch=100))
    drive.add("a", [1] * 40, max_tokens=30)
    drive.step()
    if n_shared == 20:
        drive.finish()
    drive.runner.loses = True
    prompt = [1] * n_shared + [2] * 30
    drive.add("b", prompt, max_tokens=5)
    drive.finish()
    assert drive.tokens == {"a": foretold([1] * 40, 30), "b": foretold(prompt, 5)}
    assert drive.endings["b"][0].sequence.n_cached == 0


def test_a_loss_after_the_first_token_takes_nothing_back_from_the_cached_tokens() -> None:
    drive = prefilled(max_tokens=1)
    drive.add("b", [5, 6, 7], max_tokens=12)
    drive.step()
    drive.runner.loses = True
    future = foretold([5, 6, 7], 12)
    guess(drive, future[1], future[2] + 1)
    drive.finish()
    assert drive.tokens["b"] == future
    assert any(batch.n_tokens == 6 for batch in drive.runner.batches)  # everything was computed anew
    assert drive.endings["b"][0].sequence.n_cached == 2


def test_reused_tokens_that_are_computed_anew_before_the_first_token_are_not_counted() -> None:
    drive = Drive(limits(n_slots=2, n_ctx=64, n_cells=128, n_batch=16))
    drive.add("b", [2] * 20, max_tokens=1)
    drive.finish()
    drive.add("a", [1] * 10, max_tokens=30)
    drive.step()
    drive.add("b again", [2] * 50, max_tokens=1)
    drive.step(refuse=True)
    drive.finish()
    assert drive.runner.opened.count("b again") == 2
    assert drive.endings["b again"][0].sequence.n_cached == 0


def test_a_sequence_that_must_wait_goes_on_from_its_saved_state() -> None:
    drive = cached(n_slots=2, n_ctx=60, n_cells=70)
    drive.add("a", [1] * 30, max_tokens=20)
    drive.add("b", [2] * 30, max_tokens=20)
    drive.finish()
    assert drive.tokens == {"a": foretold([1] * 30, 20), "b": foretold([2] * 30, 20)}
    assert drive.runner.opened == ["a", "b", "b"]
    assert sum(batch.n_tokens for batch in drive.runner.batches) < 110


def test_after_a_slow_save_another_one_is_tried_later() -> None:
    drive = cached()
    drive.runner.save_seconds = 0.4  # computing 40 tokens takes as long
    n_saved = []
    for i in range(1, 40):
        drive.add(f"r{i}", [i] * 40, max_tokens=1)
        drive.finish()
        n_saved.append(len(drive.runner.states))
        drive.runner.save_seconds = 0.0 if i > 20 else 0.4
    assert n_saved[2:6] == [1] * 4
    assert 2 <= n_saved[20] <= 4
    assert n_saved[-1] > n_saved[20] + 5


def test_an_empty_slot_is_no_state_to_save() -> None:
    drive = cached(prefix="whole", saved_prefix="whole")
    for name, prompt in (("a", [1] * 16), ("b", [2] * 16)):
        drive.add(name, prompt, max_tokens=3)
        drive.finish()
        assert drive.tokens[name] == foretold(prompt, 3)
    assert all(drive.runner.states.values())


def test_a_memory_that_cannot_be_cut_goes_back_to_the_end_of_the_prompt() -> None:
    drive = cached(prefix="whole", saved_prefix="whole")
    drive.add("warm", [9] * 90, max_tokens=1)
    drive.finish()
    drive.add("a", list(range(1, 61)), max_tokens=5)
    drive.finish()
    # The next turn renders the answer differently, so nothing after the prompt can be reused.
    prompt = [*range(1, 58), 90, 91, 92]
    drive.add("next", prompt, max_tokens=2)
    drive.finish()
    assert drive.tokens["next"] == foretold(prompt, 2)
    assert drive.endings["next"][0].sequence.n_cached == 60 - 16


def test_long_prompts_and_short_answers_do_not_stay_at_the_first_small_chunks() -> None:
    drive = Drive(
        limits(n_slots=8, n_ctx=2000, n_cells=16000, n_batch=2048, n_rows=8),
        prefill_chunk=512,
        seconds=lambda n_rows, n_prompt: 0.01 + 0.001 * n_rows + 0.0001 * n_prompt,
    )
    for i in range(60):
        drive.add(f"r{i}", [10 + i] * 1000, max_tokens=8)
    drive.finish()
    assert len(drive.runner.batches) < 400


def test_a_checkpoint_is_made_beside_a_running_stream() -> None:
    drive = cached(n_slots=2, prefix="whole", saved_prefix="whole", n_ctx=400, n_cells=800, n_batch=60)
    drive.add("stream", [3] * 20, max_tokens=300)
    drive.step()
    drive.add("a", list(range(1, 301)), max_tokens=2)
    while "a" not in drive.endings:
        drive.step()
    assert list(range(1, 301 - 16)) in drive.runner.states.values()


def test_a_saved_state_is_not_loaded_for_less_than_its_load_costs() -> None:
    drive = cached(n_slots=2, n_ctx=200, n_cells=400, n_batch=200)
    drive.runner.save_seconds = 0.5
    shared = [7] * 30
    drive.add("long", [*shared, *range(1, 121)], max_tokens=1)
    drive.finish()
    for first in (50, 60):
        drive.add(f"other{first}", [first] * 100, max_tokens=1)
        drive.finish()
    assert drive.runner.states
    drive.add("short", [*shared, 99, 98], max_tokens=1)
    drive.finish()
    assert not any(isinstance(op, Load) for batch in drive.runner.batches for op in batch.operations)


def test_a_request_whose_saved_state_finds_no_room_runs_without_it() -> None:
    drive = cached(n_slots=2, n_ctx=100, n_cells=130)
    drive.add("long", [1] * 90, max_tokens=1)
    drive.finish()
    drive.add("other", [2] * 90, max_tokens=1)
    drive.finish()
    drive.add("stream", [3] * 20, max_tokens=70)
    drive.step()
    drive.add("short", [1] * 30, max_tokens=1)
    drive.step()
    drive.step()
    drive.step()
    assert drive.reason("short") == "length"


def test_a_state_that_cannot_be_loaded_is_dropped() -> None:
    drive = cached()
    for name, first in (("a", 1), ("b", 2)):
        drive.add(name, [first] * 40, max_tokens=2)
        drive.finish()
    drive.add("again", [1] * 40, max_tokens=2)
    drive.runner.loses = True
    drive.step()
    drive.runner.loses = False
    drive.finish()
    assert [tokens[0] for tokens in drive.runner.states.values()] == [2]
    assert drive.tokens["again"] == drive.tokens["a"]


def test_a_copy_that_fails_each_time_does_not_hold_up_the_sequence_that_runs() -> None:
    drive = Drive(limits(n_ctx=64, n_cells=90))
    shared = list(range(1, 41))
    drive.add("a", [*shared, *range(50, 70)], max_tokens=3)
    for _ in range(3):
        drive.step()
    drive.runner.loses = True
    drive.add("b", [*shared, 99], max_tokens=3)  # it has room for its copy until the first one goes on
    drive.finish(most=100)
    assert [drive.reason(name) for name in "ab"] == ["length"] * 2


def test_tokens_that_are_computed_again_do_not_count_as_drawn_in_the_last_step() -> None:
    drive = Drive(limits(), forced=lambda history: 7)
    drive.add("a", list(range(1, 17)), max_tokens=20)
    drive.step()
    (running,) = drive.scheduler.running
    assert (running.is_decoding, running.n_pending) == (True, 8)
    drive.scheduler._make_wait(running)
    drive.step()
    drive.step()
    chunks = [chunk for batch in drive.runner.batches[-2:] for chunk in batch.chunks]
    assert [(chunk.is_decoding, len(chunk.tokens)) for chunk in chunks] == [(False, 16), (False, 8)]
    drive.finish()
    assert drive.tokens["a"] == foretold(list(range(1, 17)), 20)


def test_after_a_refusal_nobody_is_admitted_until_a_step_has_succeeded() -> None:
    drive = Drive(limits())
    drive.add("a", [1, 2], max_tokens=3)
    drive.add("b", [3, 4], max_tokens=3)
    refusals = 0
    for _ in range(50):
        batch = drive.scheduler.schedule()
        if batch is None:
            break
        if len(batch.chunks) > 1:
            refusals += 1
            drive.runner.next_results = [StepResult(no_space=True)]
        drive.take(drive.scheduler.commit(batch, drive.runner.run(batch)))
    assert drive.tokens == {"a": foretold([1, 2], 3), "b": foretold([3, 4], 3)}
    assert refusals < 10
