"""Tests of requests that are prepared in a thread before they run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from tests.driven_loop import driven
from tests.fakes import FakeRunner, foretold, limits, request
from tests.waiting import MOST_S
from worker_gguf.engine.image_runs import IMAGE, ImageRun, row_ids
from worker_gguf.engine.request import Constraint, GenerationRequest, Thinking
from worker_gguf.engine_process.preparation import Preparation
from worker_gguf.errors import InvalidRequest, WorkerError
from worker_gguf.link.messages import Add, Ending, Finish, Step

WORD = Constraint("regex", "[a-c]{3}")


class Gate:
    """Lets the preparation of requests go on one by one."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.error = error

    def __call__(self, request: GenerationRequest) -> None:
        self.begun.release()
        assert self.go_on.acquire(timeout=MOST_S)
        if self.error is not None:
            raise self.error


def ending_of(step: Step) -> Ending:
    (ending,) = step.endings
    return ending


@pytest.mark.parametrize("asked", [{"constraint": WORD}, {"thinking": Thinking("<think>", ("</think>",), budget=3)}])
def test_others_run_while_a_request_is_prepared(asked: dict[str, Any]) -> None:
    runner = FakeRunner(limits())
    runner.preparing = gate = Gate()
    with driven(runner, Add(1, request("held", max_tokens=1, **asked), None)) as drive:
        assert gate.begun.acquire(timeout=MOST_S)
        drive.send(Add(2, request("free", max_tokens=1), None))
        while not (step := drive.step()).endings:
            pass
        assert ending_of(step).number == 2
        assert step.waiting == 1
        gate.go_on.release()
        while not (step := drive.step()).endings:
            pass
        assert ending_of(step).number == 1
        assert step.waiting == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("no such rule"), "InvalidRequest"),
        (ValueError("a bug"), "EngineFailed"),
        (SystemExit("a panic"), "EngineFailed"),
    ],
)
def test_a_request_that_cannot_be_prepared_is_refused(error: BaseException, kind: str) -> None:
    runner = FakeRunner(limits())
    runner.preparing = gate = Gate(error)
    gate.go_on.release()
    with driven(runner, Add(1, request("held", constraint=WORD), None)) as drive:
        while not (step := drive.step()).endings:
            pass
        refused = ending_of(step).error
        assert refused is not None
        assert refused.kind == kind
        drive.send(Add(2, request("free", max_tokens=1), None))
        while not (step := drive.step()).endings:
            pass
        assert ending_of(step).reason == "length"
    assert runner.opened == ["free"]


def test_a_request_that_is_cancelled_meanwhile_never_runs() -> None:
    runner = FakeRunner(limits())
    runner.preparing = gate = Gate()
    with driven(runner, Add(1, request("gone", constraint=WORD), None)) as drive:
        assert gate.begun.acquire(timeout=MOST_S)
        assert drive.step().waiting == 1
        drive.send(Finish(1))
        assert drive.step().waiting == 0
        drive.send(Add(2, request("next", max_tokens=1, constraint=WORD), None))
        gate.go_on.release(2)
        while not (step := drive.step()).endings:
            pass
        assert ending_of(step).number == 2
    assert runner.opened == ["next"]
    assert "gone" not in runner.prepared


def seen(request: GenerationRequest) -> GenerationRequest:
    """Return a request with its images as runs of three rows."""
    tokens: list[int] = []
    runs: list[ImageRun] = []
    for token in request.prompt:
        if token == IMAGE:
            runs.append(ImageRun(len(tokens), 3))
        tokens += row_ids(len(runs), 3) if token == IMAGE else [token]
    return replace(request, prompt=tuple(tokens), images=(), runs=tuple(runs))


def test_a_request_with_images_runs_with_their_rows_and_the_length_of_its_prompt_is_reported() -> None:
    runner = FakeRunner(limits())
    images: list[tuple[bytes, ...]] = []

    def prepare(request: GenerationRequest) -> GenerationRequest:
        images.append(request.images)
        return seen(request)

    runner.preparing = prepare
    asked = request("sees", [1, IMAGE, 2, IMAGE], images=(b"first", b"second"), max_tokens=2)
    with driven(runner, Add(1, asked, None)) as drive:
        steps = [drive.step()]
        while not steps[-1].endings:
            steps.append(drive.step())
    assert images == [(b"first", b"second")]
    assert [pair for step in steps for pair in step.seen] == [(1, 8)]
    drawn = [token for step in steps for token in step.tokens]
    assert drawn == foretold(seen(asked).prompt, 2)


def test_a_grammar_does_not_wait_for_an_image() -> None:
    runner = FakeRunner(limits())
    gate = Gate()

    def prepare(request: GenerationRequest) -> GenerationRequest:
        if request.images:
            gate(request)
        return seen(request)

    runner.preparing = prepare
    with driven(runner, Add(1, request("sees", [IMAGE, 1], images=(b"x",)), None)) as drive:
        assert gate.begun.acquire(timeout=MOST_S)
        drive.send(Add(2, request("held", max_tokens=1, constraint=WORD), None))
        while not (step := drive.step()).endings:
            pass
        assert (ending_of(step).number, ending_of(step).reason) == (2, "length")
        gate.go_on.release()
        while not (step := drive.step()).endings:
            pass
        assert ending_of(step).number == 1


def test_an_image_that_takes_too_long_is_named_in_the_error() -> None:
    now = 0.0
    runner = FakeRunner(limits())
    runner.preparing = gate = Gate()
    late = request("late", [IMAGE], images=(b"x",), deadline_s=5.0)
    with driven(runner, Add(1, late, None), clock=lambda: now) as drive:
        assert gate.begun.acquire(timeout=MOST_S)
        now = 6.0
        while not (step := drive.step()).endings:
            pass
        error = ending_of(step).error
        assert error is not None
        assert error.message.startswith("The request timed out before its images were encoded. Send a longer timeout")
        gate.go_on.release()


def test_a_preparation_learns_that_its_request_was_dropped() -> None:
    wanted: list[bool] = []
    begun, go_on, told = threading.Semaphore(0), threading.Semaphore(0), threading.Semaphore(0)

    def prepare(request: GenerationRequest, is_wanted: Callable[[], bool]) -> GenerationRequest:
        wanted.append(is_wanted())
        begun.release()
        assert go_on.acquire(timeout=MOST_S)
        wanted.append(is_wanted())
        return request

    forgotten: list[str] = []
    preparation = Preparation(prepare, forgotten.append, told.release)
    preparation.begin(Add(1, request("gone", constraint=WORD), None))
    assert begun.acquire(timeout=MOST_S)
    assert preparation.forget(1)
    go_on.release()
    assert told.acquire(timeout=MOST_S)
    assert preparation.take() == []
    assert (wanted, forgotten) == ([True, False], ["gone"])


def test_requests_are_taken_once_and_in_order() -> None:
    done: list[tuple[Add, WorkerError | None]] = []
    told = threading.Semaphore(0)
    preparation = Preparation(lambda request, _: request, lambda request_id: None, told.release)
    for number in (1, 2, 3):
        preparation.begin(Add(number, request(str(number), constraint=WORD), None))
    for _ in range(3):
        assert told.acquire(timeout=MOST_S)
        done += preparation.take()
    assert [command.number for command, _ in done] == [1, 2, 3]
    assert len(preparation) == 0
    assert not preparation.forget(1)


@pytest.mark.parametrize(
    ("deadline_s", "start_by_s", "kind"), [(5.0, None, "DeadlineExceeded"), (None, 5.0, "QueueFull")]
)
def test_a_request_whose_time_is_over_meanwhile_is_ended(
    deadline_s: float | None, start_by_s: float | None, kind: str
) -> None:
    now = 0.0
    runner = FakeRunner(limits())
    runner.preparing = gate = Gate()
    late = request("late", constraint=WORD, deadline_s=deadline_s)
    with driven(runner, Add(1, late, start_by_s), clock=lambda: now) as drive:
        assert gate.begun.acquire(timeout=MOST_S)
        now = 6.0
        while not (step := drive.step()).endings:
            pass
        error = ending_of(step).error
        assert error is not None
        assert error.kind == kind
        gate.go_on.release()
        drive.send(Add(2, request("next", max_tokens=1), None))
        while not (step := drive.step()).endings:
            pass
        assert ending_of(step).number == 2
    assert runner.opened == ["next"]
