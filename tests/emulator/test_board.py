"""Tests of the platform's memory: leases, tries and time limits, with a clock of the test's own."""

from __future__ import annotations

import pytest

from emulator.board import Board
from emulator.jobs import Job
from emulator.rules import Policy, Rules

RULES = Rules(lease_s=10, max_tries=3)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Board:
    return Board(RULES, clock)


def pass_time(board: Board, clock: Clock, seconds: float) -> None:
    clock.now_s += seconds
    board.sweep()


def take_one(board: Board, worker: str) -> Job:
    (job,) = board.take(worker, 1)
    return job


def test_a_job_of_a_silent_worker_goes_to_another(board: Board, clock: Clock) -> None:
    job = board.submit("x")
    take_one(board, "a")
    board.append("a", job, {"output": "half"})
    pass_time(board, clock, 11)
    assert (job.status, board.n_retried) == ("IN_QUEUE", 1)
    assert take_one(board, "b") is job
    assert job.chunks == []  # the next worker begins anew
    assert board.take_stops("a") == [job.id]  # should it live after all


def test_pings_that_name_a_job_and_posts_keep_its_lease(board: Board, clock: Clock) -> None:
    job = board.submit("x")
    take_one(board, "a")
    for _ in range(5):
        pass_time(board, clock, 6)
        board.ping("a", [job.id])
        pass_time(board, clock, 6)
        board.append("a", job, {"output": "."})
    assert (job.status, job.n_tries) == ("IN_PROGRESS", 1)


def test_a_ping_that_does_not_name_the_job_does_not_keep_it(board: Board, clock: Clock) -> None:
    job = board.submit("x")
    take_one(board, "a")
    for _ in range(3):
        pass_time(board, clock, 5)
        board.ping("a", [])
    assert job.status == "IN_QUEUE"


def test_a_late_worker_that_was_not_replaced_keeps_the_job_and_its_stream(board: Board, clock: Clock) -> None:
    job = board.submit("x")
    take_one(board, "a")
    board.append("a", job, {"output": "1"})
    pass_time(board, clock, 11)
    board.ping("a", [job.id])
    assert job.status == "IN_PROGRESS"
    assert board.take("b", 1) == []
    board.finish("a", job, {"output": ["1"]})
    assert (job.status, job.chunks) == ("COMPLETED", [{"output": "1"}])


def test_a_worker_that_was_replaced_changes_nothing(board: Board, clock: Clock) -> None:
    job = board.submit("x")
    take_one(board, "a")
    pass_time(board, clock, 11)
    take_one(board, "b")
    board.append("a", job, {"output": "late"})
    board.finish("a", job, {"output": ["late"]})
    assert (job.status, job.chunks) == ("IN_PROGRESS", [])
    board.finish("b", job, {"output": ["b"]})
    board.finish("a", job, {"error": "late"})
    assert (job.status, job.output, job.endings) == ("COMPLETED", ["b"], ["COMPLETED"])


def test_a_job_that_outlives_three_workers_fails_with_a_reason_and_others_go_on(board: Board, clock: Clock) -> None:
    poisoned, other = board.submit("poison"), board.submit("x")
    for worker in "abc":
        assert take_one(board, worker) is poisoned
        board.gone(worker)
        board.sweep()
    assert (poisoned.status, poisoned.endings) == ("FAILED", ["FAILED"])
    assert "3 workers" in poisoned.error
    assert take_one(board, "d") is other


def test_a_dead_workers_last_ping_does_not_take_the_job_back(board: Board) -> None:
    job = board.submit("x")
    take_one(board, "a")
    board.gone("a")
    board.sweep()
    board.ping("a", [job.id])
    assert take_one(board, "b") is job


def test_ttl_ends_a_job_that_waits_and_one_that_runs(board: Board, clock: Clock) -> None:
    policy = Policy(execution_timeout_s=600, ttl_s=20, retention_s=1800)
    running, waiting = board.submit("x", policy), board.submit("y", policy)
    take_one(board, "a")
    pass_time(board, clock, 9)
    board.ping("a", [running.id])
    pass_time(board, clock, 9)
    board.ping("a", [running.id])
    pass_time(board, clock, 9)
    assert [job.status for job in (running, waiting)] == ["TIMED_OUT", "TIMED_OUT"]
    assert board.take_stops("a") == [running.id]
    assert board.take("a", 5) == []


def test_execution_timeout_counts_from_the_take(board: Board, clock: Clock) -> None:
    job = board.submit("x", Policy(execution_timeout_s=5, ttl_s=86400, retention_s=1800))
    pass_time(board, clock, 60)
    take_one(board, "a")
    pass_time(board, clock, 4)
    assert (job.status, job.error) == ("IN_PROGRESS", None)
    pass_time(board, clock, 2)
    assert (job.status, "executionTimeout" in job.error) == ("TIMED_OUT", True)


def test_a_result_is_kept_for_its_time(board: Board, clock: Clock) -> None:
    job = board.submit("x")
    take_one(board, "a")
    board.finish("a", job, {"output": [1]})
    pass_time(board, clock, 1799)
    assert job.id in board.jobs
    pass_time(board, clock, 2)
    assert job.id not in board.jobs


def test_retry_is_for_jobs_that_failed(board: Board) -> None:
    job = board.submit("x")
    assert not board.retry(job)
    take_one(board, "a")
    board.finish("a", job, {"error": "no"})
    assert board.retry(job)
    assert (job.status, job.error, job.output) == ("IN_QUEUE", None, None)
    assert take_one(board, "b") is job


def test_an_outage_costs_no_lease(board: Board, clock: Clock) -> None:
    job = board.submit("x")
    take_one(board, "a")
    clock.now_s += 60  # nobody sweeps: the platform is gone
    board.come_back()
    board.sweep()
    assert job.status == "IN_PROGRESS"


def test_a_long_chunk_is_split_at_the_platforms_limit() -> None:
    board = Board(Rules(max_chunk_bytes=1000))
    job = board.submit("x")
    take_one(board, "a")
    text = "é" * 1300
    board.append("a", job, {"output": text})
    texts = [chunk["output"] for chunk in job.chunks]
    assert "".join(texts) == text
    assert all(len(part.encode()) <= 1000 for part in texts)


@pytest.mark.parametrize(
    "policy", [[], "x", {"ttl": "1"}, {"ttl": True}, {"ttl": 9999}, {"executionTimeout": 4999}, {"ttl": 1e12}]
)
def test_a_policy_out_of_bounds_is_refused(policy: object) -> None:
    with pytest.raises(ValueError, match="policy"):
        Policy.of(policy, RULES, retention_s=1)
