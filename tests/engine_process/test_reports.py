"""Tests of the reports of an engine process: what they count, and which tokens are held."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from tests.driven_loop import driven
from tests.fakes import FakeRunner, foretold, limits, request, successor
from worker_gguf.engine.batch import Batch, Chunk, Logprob, Sampled, StepResult
from worker_gguf.engine.speculation import Drafted
from worker_gguf.engine_process.reports import Turn
from worker_gguf.link.messages import Add, Finish


def test_further_tokens_are_reported_after_the_next_computation_and_before_its_drawing() -> None:
    runner = FakeRunner(limits())
    drawing = threading.Event()

    def draw(history: Sequence[int]) -> int:
        if len(history) == 5:  # the third token
            drawing.wait(10)
        return successor(history)

    runner.draw = draw
    with driven(runner, Add(1, request("a", max_tokens=9), None), holds_reports=True) as drive:
        assert drive.step().tokens == foretold([1, 2, 3], 1)
        assert drive.step().tokens == foretold([1, 2, 3], 2)[1:]
        drawing.set()


def test_the_first_token_and_the_end_are_not_held() -> None:
    runner = FakeRunner(limits())
    gate = runner.gate = threading.Event()
    gate.set()
    with driven(runner, Add(1, request("a", max_tokens=3), None), holds_reports=True) as drive:
        first = drive.step()
        assert len(first.tokens) == 1
        second, third = drive.step(), drive.step()
        assert (len(second.tokens), second.endings) == (1, [])
        assert (len(third.tokens), [ending.reason for ending in third.endings]) == (1, ["length"])


def test_the_tokens_that_a_grammar_forces_after_the_first_are_not_held() -> None:
    runner = FakeRunner(limits(), forced=lambda history: 3 if len(history) == 4 else 0)
    with driven(runner, Add(1, request("a", max_tokens=9), None), holds_reports=True) as drive:
        first = drive.step()
    assert (first.admitted, len(first.tokens)) == ([(1, 0)], 4)


def test_beside_a_first_token_and_an_end_the_tokens_of_others_are_held() -> None:
    first, second = request("a", [1, 2, 3], max_tokens=30), request("b", [7, 8], max_tokens=3)
    runner, is_sent = FakeRunner(limits()), threading.Event()

    def draw(history: Sequence[int]) -> int:
        if len(history) == 4:
            is_sent.wait(10)
        return successor(history)

    runner.draw = draw
    with driven(runner, Add(1, first, None), holds_reports=True) as drive:
        steps = [drive.step()]
        drive.send(Add(2, second, None))
        is_sent.set()
        while not any(ending.number == 1 for ending in steps[-1].endings):
            steps.append(drive.step())
    begins = next(step for step in steps if any(number == 2 for number, _ in step.admitted))
    ends = next(step for step in steps if any(ending.number == 2 for ending in step.endings))
    assert (begins.numbers, begins.n_batch_tokens) == ([2], 0)
    assert (ends.numbers, ends.n_batch_tokens) == ([2], 0)
    for number, prompt, n in ((1, [1, 2, 3], 30), (2, [7, 8], 3)):
        tokens = [token for step in steps for of, token in zip(step.numbers, step.tokens, strict=True) if of == number]
        assert tokens == foretold(prompt, n)
    assert sum(step.n_batch_tokens for step in steps) == 3 + 29 + 2 + 2


def test_a_report_is_not_held_if_steps_take_long() -> None:
    runner = FakeRunner(limits(), seconds=lambda n_rows, n_prompt: 0.2)
    computing = threading.Event()

    def on_append(history: Sequence[int]) -> int:
        if len(history) == 4:  # the second token is drawn, and the next computation does not begin
            runner.gate = computing
        return successor(history)

    runner.draw = on_append
    with driven(runner, Add(1, request("a", max_tokens=9), None), holds_reports=True) as drive:
        tokens = [*drive.step().tokens, *drive.step().tokens]
        computing.set()
    assert tokens == foretold([1, 2, 3], 2)


def test_the_report_after_a_cancel_is_not_held() -> None:
    with driven(FakeRunner(limits(n_ctx=1000, n_cells=2000)), holds_reports=True) as drive:
        drive.send(Add(1, request("a", max_tokens=900), None))
        drive.step()
        drive.send(Finish(1))
        while drive.step().busy_slots:
            pass


@pytest.mark.parametrize(
    ("chunk", "sampled", "guessed", "right"),
    [
        (Chunk(0, 0, [1, 2, 3], 3, (2, 3, 4)), Sampled(0, (), scored=(Logprob(2, -1.0),) * 3), 0, 0),
        (Chunk(0, 5, [1], 1, is_decoding=True), Sampled(0, (2, 3, 4)), 0, 0),
        (Chunk(0, 5, [1, 2], 2, is_decoding=True), Sampled(0, (9, 3, 4)), 1, 0),
        (Chunk(0, 5, [1, 2], 2, is_decoding=True), Sampled(0, (2, 3, 4)), 1, 1),
        (Chunk(0, 5, [7, 8, 1, 2, 3], 3, is_decoding=True), Sampled(0, (2, 9)), 2, 1),
        (Chunk(0, 5, [1, 2, 3], 3, is_decoding=True), Sampled(0, (2, 3, 4)), 2, 2),
    ],
    ids=["scored", "forced", "wrong, then forced", "right, then forced", "after forced", "right"],
)
@pytest.mark.parametrize("other", [(1,), (1, 40, 41)], ids=["one", "forced"])
@pytest.mark.parametrize("is_drafted", [False, True], ids=["looked up", "drafted"])
def test_only_guesses_that_were_drawn_count_as_right(
    chunk: Chunk, sampled: Sampled, guessed: int, right: int, other: tuple[int, ...], is_drafted: bool
) -> None:
    turn = Turn()
    batch = Batch((), (chunk, Chunk(1, 5, [1], 1, is_decoding=True), Chunk(2, 0, [1, 2], 0)))
    drafted = Drafted(frozenset({0})) if is_drafted else Drafted()
    turn.note_result(batch, StepResult((sampled, Sampled(1, other))), drafted)
    assert (turn.guessed, turn.guessed_right) == (guessed, right)
    assert (turn.drafted, turn.drafted_right) == ((guessed, right) if is_drafted else (0, 0))
