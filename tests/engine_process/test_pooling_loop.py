"""Tests of the loop of an engine process whose model pools: commands in, one report for each step."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from tests.driven_loop import Driven, running
from tests.fake_pooler import FakePooler, pooling_limits, pooling_request, values_of
from worker_gguf.engine.pooling import PoolingResult
from worker_gguf.engine.request import PoolingRequest
from worker_gguf.engine_process.first_vector import first_vector
from worker_gguf.engine_process.pooling_loop import PoolingLoop
from worker_gguf.errors import EngineFailed
from worker_gguf.link.channel import ChannelClosed
from worker_gguf.link.messages import Command, Finish, Pool


def drive_of(runner: FakePooler, **options: object) -> Driven[PoolingLoop]:
    return Driven(lambda channel: PoolingLoop(runner, channel, **options))  # type: ignore[arg-type]


def driven(runner: FakePooler, *commands: Command, **options: object) -> AbstractContextManager[Driven[PoolingLoop]]:
    return running(drive_of(runner, **options), *commands)


def pool(number: int, request: PoolingRequest, start_by_s: float | None = None) -> Pool:
    return Pool([number], [request], 1, start_by_s)


def test_a_step_reports_the_numbers_of_all_its_inputs_in_one_message() -> None:
    both = Pool([7, 8], [pooling_request("a", [1, 2]), pooling_request("b", [3])], 7, None)
    with driven(FakePooler(pooling_limits()), both) as drive:
        step = drive.step()
        assert step.pooled == [(7, values_of([1, 2])), (8, values_of([3]))]
        assert (step.admitted, step.n_batch_tokens, step.decode_seconds) == ([(7, 0), (8, 0)], 3, 0.5)
        assert (step.endings, step.tokens, step.busy_slots, step.waiting) == ([], [], 0, 0)


def test_a_finished_input_is_neither_computed_nor_reported() -> None:
    runner = FakePooler(pooling_limits(n_slots=1))
    commands = (pool(1, pooling_request("a")), pool(2, pooling_request("b")), Finish(number=2), Finish(number=9))
    with driven(runner, *commands, pool(3, pooling_request("c"))) as drive:
        assert [number for number, _ in (*drive.step().pooled, *drive.step().pooled)] == [1, 3]


def test_the_waiting_inputs_are_counted() -> None:
    commands = [pool(number, pooling_request(str(number))) for number in range(5)]
    with driven(FakePooler(pooling_limits(n_slots=2)), *commands) as drive:
        assert [(step.busy_slots, step.waiting) for step in (drive.step(), drive.step(), drive.step())] == [
            (2, 1),
            (1, 0),
            (0, 0),
        ]


def test_an_engine_whose_inputs_were_all_finished_says_that_it_is_idle() -> None:
    others = range(2, 10)
    commands: list[Command] = [pool(number, pooling_request(str(number))) for number in others]
    commands += [Finish(number=number) for number in others]
    with driven(FakePooler(pooling_limits()), *commands) as drive:
        report = drive.step()
    assert (report.busy_slots, report.waiting, report.pooled) == (0, 0, [])


def test_an_input_whose_time_is_over_is_reported_before_the_next_computation() -> None:
    runner, now = FakePooler(pooling_limits(n_slots=1)), 0.0

    def later() -> None:
        nonlocal now
        now = 100.0

    runner.on_run = later
    commands = (pool(1, pooling_request("a")), pool(2, pooling_request("b"), start_by_s=5.0))
    with driven(runner, *commands, pool(3, pooling_request("c", deadline_s=9.0)), clock=lambda: now) as drive:
        assert [number for number, _ in drive.step().pooled] == [1]
        endings = drive.step().endings
        assert [(ending.number, ending.error and ending.error.kind) for ending in endings] == [
            (2, "QueueFull"),
            (3, "DeadlineExceeded"),
        ]
    assert len(runner.batches) == 1


def test_a_failed_computation_is_the_error_of_its_inputs() -> None:
    runner = FakePooler(pooling_limits())
    runner.next_results = [PoolingResult({}, EngineFailed("It failed."))]
    with driven(runner, pool(1, pooling_request("a"))) as drive:
        (ending,) = drive.step().endings
        assert (ending.number, ending.reason) == (1, "error")
        assert ending.error is not None
        assert ending.error.message == "It failed."


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_ends_every_input_and_the_loop_goes_on() -> None:
    runner = FakePooler(pooling_limits(n_slots=1))

    def fail() -> None:
        runner.on_run = lambda: None
        raise RuntimeError("a bug")

    runner.on_run = fail
    with driven(runner, pool(1, pooling_request("a")), pool(2, pooling_request("b"))) as drive:
        assert [(ending.number, ending.error and ending.error.kind) for ending in drive.step().endings] == [
            (1, "EngineFailed"),
            (2, "EngineFailed"),
        ]
        drive.send(pool(3, pooling_request("c")))
        assert [number for number, _ in drive.step().pooled] == [3]


def test_an_input_that_only_a_bug_can_send_still_gets_an_ending() -> None:
    with driven(FakePooler(pooling_limits()), pool(1, pooling_request("a", []))) as drive:
        (ending,) = drive.step().endings
        assert (ending.number, ending.error and ending.error.kind) == (1, "EngineFailed")


def test_the_loop_ends_when_the_worker_process_has_ended() -> None:
    drive = drive_of(FakePooler(pooling_limits()))
    drive.worker.close()
    with pytest.raises(ChannelClosed):
        drive.loop.run()
    drive.channel.close()


def test_the_first_vector_has_a_length_or_an_error() -> None:
    runner = FakePooler(pooling_limits())
    assert first_vector(runner, 4) == pytest.approx((1 + 16) ** 0.5)
    assert runner.memory == {}
    error = EngineFailed("It failed.")
    runner.next_results = [PoolingResult({}, error)]
    assert first_vector(runner, 4) is error
