"""Tests of the loop of an engine process: commands in, one report for each turn."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from tests.driven_loop import drive_of, driven
from tests.fakes import FakeDrafter, FakeRunner, foretold, limits, request, successor
from worker_gguf.engine.batch import Batch, Close, StepResult
from worker_gguf.link.channel import ChannelClosed
from worker_gguf.link.messages import Add, Finish, Step


def test_a_turn_reports_the_tokens_of_all_requests_in_one_message() -> None:
    first, second = request("a", [1, 2]), request("b", [3])
    with driven(FakeRunner(limits()), Add(7, first, None), Add(8, second, None)) as drive:
        step = drive.step()
        assert list(zip(step.numbers, step.tokens, strict=True)) == [
            (7, foretold([1, 2], 1)[0]),
            (8, foretold([3], 1)[0]),
        ]
        assert (step.admitted, step.n_batch_tokens, step.busy_slots) == ([(7, 0), (8, 0)], 3, 2)
        assert step.logprobs == []


def test_the_end_of_a_request_is_reported_before_the_next_decode() -> None:
    now = 0.0
    runner = FakeRunner(limits(n_slots=1, n_ctx=1000, n_cells=1000))

    def draw(history: Sequence[int]) -> int:
        nonlocal now
        now = 100.0
        runner.gate = runner.gate or threading.Event()  # the next decode blocks until the gate opens
        return successor(history)

    runner.draw = draw
    with driven(runner, Add(1, request("a"), None), Add(2, request("b"), 5.0), clock=lambda: now) as drive:
        while not (endings := drive.step().endings):
            pass
        assert [(ending.number, ending.error and ending.error.kind) for ending in endings] == [(2, "QueueFull")]
        assert runner.gate is not None
        runner.gate.set()
        while not (endings := drive.step().endings):
            pass
        assert [(ending.number, ending.reason) for ending in endings] == [(1, "length")]


def test_a_finished_request_frees_its_slot_and_is_not_reported_again() -> None:
    runner = FakeRunner(limits(n_slots=1, n_ctx=1000, n_cells=1000))
    with driven(runner, Add(1, request("a", max_tokens=900), None), Add(2, request("b", [5]), None)) as drive:
        assert drive.step().numbers == [1]
        drive.send(Finish(1))
        steps: list[Step] = []
        while not (steps and steps[-1].endings):
            steps.append(drive.step())
        after = next(i for i, step in enumerate(steps) if step.numbers != [1])
        assert all(1 not in step.numbers for step in steps[after:])
        assert [ending.number for ending in steps[-1].endings] == [2]


def test_a_command_for_a_request_that_has_ended_does_nothing() -> None:
    with driven(FakeRunner(limits()), Add(1, request("a", max_tokens=1), None)) as drive:
        while not drive.step().endings:
            pass
        drive.send(Finish(1), Finish(99), Add(2, request("b", max_tokens=1), None))
        while not (endings := drive.step().endings):
            pass
        assert [ending.number for ending in endings] == [2]


def test_the_loop_ends_when_the_worker_process_has_ended() -> None:
    drive = drive_of(FakeRunner(limits()))
    drive.worker.close()
    with pytest.raises(ChannelClosed):
        drive.loop.run()
    drive.channel.close()


def test_a_report_counts_what_a_draft_model_guessed() -> None:
    def unlike(history: Sequence[int]) -> int:
        return 1 + 7919 * len(history) + history[-1] % 89

    runner = FakeRunner(limits(n_rows=8), unlike, lambda n_rows, n_prompt: 1.0)
    drafter = FakeDrafter(unlike, lambda n_rows, n_prompt: 0.01)
    with driven(runner, Add(1, request("a", max_tokens=12), None), drafter=drafter) as drive:
        steps = [drive.step()]
        while not steps[-1].endings:
            steps.append(drive.step())
    assert sum(len(step.tokens) for step in steps) == 12
    n_guessed = sum(step.guessed for step in steps)
    assert n_guessed == sum(step.drafted for step in steps) == sum(step.drafted_right for step in steps) > 0
    assert sum(step.draft_seconds for step in steps) == pytest.approx(drafter.total_seconds)
    assert steps[0].draft_seconds == 0


def test_what_a_lost_state_would_have_saved_is_not_reported_as_cached() -> None:
    runner = FakeRunner(limits(n_slots=1, n_ctx=100, n_cells=100, n_batch=100), seconds=lambda *n: 0.01 + 0.01 * n[1])
    with driven(runner, cache_bytes=1000) as drive:

        def answer(number: int, first: int) -> Step:
            """Answer a request of 40 tokens. Returns the report that it was admitted."""
            drive.send(Add(number, request(str(number), [first] * 40, max_tokens=2), None))
            steps = [drive.step()]
            while not steps[-1].endings:
                steps.append(drive.step())
            return next(step for step in steps if step.admitted)

        for number in (1, 2, 3):
            answer(number, number)
        assert answer(4, 2).admitted == [(4, 39)]
        runner.loses, n_before = True, len(runner.batches)
        assert answer(5, 3).admitted == [(5, 0)]
        assert max(batch.n_tokens for batch in runner.batches[n_before:]) == 40


def test_a_failed_step_still_frees_what_it_should_have_freed() -> None:
    runner = FakeRunner(limits())
    run = runner.run
    failures: list[Batch] = []

    def fail_once(batch: Batch) -> StepResult:
        if any(isinstance(operation, Close) for operation in batch.operations) and not failures:
            failures.append(batch)
            raise RuntimeError("a bug")
        return run(batch)

    runner.run = fail_once  # type: ignore[method-assign]
    with driven(runner, Add(1, request("a", max_tokens=2), None)) as drive:
        while not drive.step().endings:
            pass
        drive.send(Add(2, request("b", max_tokens=1), None))
        while not drive.step().endings:
            pass
    assert failures
    assert "a" not in runner.open


def test_a_turn_reports_whether_it_changed_the_adapters_and_what_that_took() -> None:
    runner = FakeRunner(limits(n_slots=1, n_adapters=1), switch_seconds=0.25)
    first, second = request("a", [1], max_tokens=2, adapters=((0, 1.0),)), request("b", [2], max_tokens=1)
    with driven(runner, Add(1, first, None), Add(2, second, None)) as drive:
        steps = [drive.step() for _ in range(3)]
    assert [(step.switched, step.switch_seconds) for step in steps] == [(True, 0.25), (False, 0.0), (True, 0.25)]


def test_a_request_with_an_adapter_that_is_not_loaded_is_refused() -> None:
    wrong = request("a", [1], adapters=((1, 1.0),))
    with driven(FakeRunner(limits(n_adapters=1)), Add(1, wrong, None)) as drive:
        (ending,) = drive.step().endings
    assert ending.reason == "error"
    assert ending.error is not None
