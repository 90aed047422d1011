"""Tests of errors that travel between the processes."""

from __future__ import annotations

import pytest

from worker_gguf.errors import EngineFailed, NotEnoughMemory, QueueFull, Unfit, WorkerError
from worker_gguf.link.errors import error_of, report_of
from worker_gguf.link.messages import ErrorReport


@pytest.mark.parametrize("error", [NotEnoughMemory("It does not fit."), QueueFull("Full.", retry_after_s=4)])
def test_an_error_keeps_its_class_and_message(error: WorkerError) -> None:
    again = error_of(report_of(error))
    assert (type(again), again.message, again.retry_after_s) == (type(error), error.message, error.retry_after_s)


def test_a_missing_library_is_a_failed_check() -> None:
    again = error_of(report_of(Unfit("No driver.")))
    assert isinstance(again, Unfit)
    assert [check["ok"] for check in again.checks] == [False]


def test_an_unknown_class_is_a_failure_of_the_engine() -> None:
    assert isinstance(error_of(ErrorReport(kind="Odd", message="?")), EngineFailed)
