"""Tests of the turns between the steps of the engine and the encoding of images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pytest

from worker_gguf.llama.alternation import Alternation

T = TypeVar("T")
_MOST_S = 10.0


class Clock:
    """Shows the time that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Stage:
    """An alternation with one step and one encoding, each in a thread of its own."""

    def __init__(self, patience_s: float) -> None:
        self.clock = Clock()
        self.alternation = Alternation(self.clock, patience_s=patience_s)
        self._threads = ThreadPoolExecutor(2)

    def close(self) -> None:
        self._threads.shutdown()

    def begin(self, work: Callable[[], T]) -> Future[T]:
        return self._threads.submit(work)

    def compute_step(self, seconds: float) -> None:
        with self.alternation.step():
            self.clock.now_s += seconds

    def wait_for_encoding(self) -> None:
        """Return when the encoding waits for its turn."""
        self.until(lambda: self.alternation._encoding_waits)

    def until(self, holds: Callable[[], bool]) -> None:
        changed = self.alternation._changed
        with changed:
            assert changed.wait_for(holds, _MOST_S)


@pytest.fixture
def patience_s() -> float:
    return _MOST_S


@pytest.fixture
def stage(patience_s: float) -> Iterator[Stage]:
    made = Stage(patience_s)
    yield made
    made.close()


def test_an_encoding_beside_which_no_step_is_computed_never_waits(stage: Stage) -> None:
    with stage.alternation.encoding():
        for _ in range(3):
            stage.clock.now_s += 1.0
            stage.alternation.pause()


def test_a_step_beside_which_nothing_is_encoded_never_waits(stage: Stage) -> None:
    for _ in range(3):
        stage.compute_step(1.0)


def test_an_encoding_that_comes_during_a_step_begins_after_it(stage: Stage) -> None:
    events: list[str] = []

    def encode() -> None:
        with stage.alternation.encoding():
            events.append("encoding")

    with stage.alternation.step():
        encoded = stage.begin(encode)
        stage.wait_for_encoding()
        events.append("step")
    encoded.result(_MOST_S)
    assert events == ["step", "encoding"]


@pytest.mark.parametrize(("step_s", "n_before"), [(0.1, 1), (0.2, 2), (100.0, 3)])
def test_a_step_waits_until_the_turn_of_an_encoding_is_over(stage: Stage, step_s: float, n_before: int) -> None:
    events: list[str] = []
    may_pause = threading.Semaphore(0)

    def encode() -> None:
        with stage.alternation.encoding():
            for operation in range(6):
                assert may_pause.acquire(timeout=_MOST_S)
                stage.clock.now_s += 0.07
                events.append(f"operation {operation}")
                stage.alternation.pause()

    def compute() -> None:
        with stage.alternation.step():
            events.append("step")

    with stage.alternation.step():
        encoded = stage.begin(encode)
        stage.wait_for_encoding()
        stage.clock.now_s += step_s
    computed = stage.begin(compute)
    stage.until(lambda: stage.alternation._step_waits)
    for _ in range(6):
        may_pause.release()
    encoded.result(_MOST_S)
    computed.result(_MOST_S)
    # Each operation takes 0.07 s, and the turn 0.6 times as long as the step before it, but 0.2 s at most.
    expected = [f"operation {number}" for number in range(6)]
    expected.insert(n_before, "step")
    assert events == expected


@pytest.mark.parametrize("patience_s", [0.0])
def test_a_step_does_not_wait_for_a_long_operation(stage: Stage) -> None:
    is_computed = threading.Event()

    def encode() -> None:
        with stage.alternation.encoding():
            assert is_computed.wait(_MOST_S)

    with stage.alternation.step():
        encoded = stage.begin(encode)
        stage.wait_for_encoding()
    stage.compute_step(1.0)
    is_computed.set()
    encoded.result(_MOST_S)


def test_a_step_that_fails_ends(stage: Stage) -> None:
    with pytest.raises(RuntimeError, match="failed"), stage.alternation.step():
        raise RuntimeError("failed")
    with stage.alternation.encoding():
        pass


def test_an_encoding_that_fails_ends(stage: Stage) -> None:
    with pytest.raises(RuntimeError, match="failed"), stage.alternation.encoding():
        raise RuntimeError("failed")
    stage.compute_step(1.0)
