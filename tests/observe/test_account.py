"""Tests of the account of a request: counts and times of several choices, and of cancelled requests."""

from __future__ import annotations

import pytest

from worker_gguf.generation.events import Finished, Usage
from worker_gguf.generation.progress import Progress
from worker_gguf.observe.account import Account, Record


def closed(*progress: Progress, n: int = 1, finished: dict[int, Finished] | None = None, status: int = 200) -> Record:
    """Times of `progress` count from the request's start."""
    account = Account("http", "id")
    for one in progress:
        for name in ("submitted_s", "admitted_s", "first_token_s", "ended_s"):
            at_s = getattr(one, name)
            setattr(one, name, None if at_s is None else at_s + account.started_s)
    account.submitted(progress, model="m", answer_id="a", stream=False, n=n)
    for index, event in (finished or {}).items():
        account.finished(index, event)
    return account.close(status)


def test_times_of_a_single_answer() -> None:
    record = closed(Progress(0.5, 20, 1.5, 2.0, 4.0, cached_tokens=5, completion_tokens=9))
    assert record.queue_wait_s == pytest.approx(1.0)
    assert record.first_token_s == pytest.approx(2.0)
    assert record.prefill_tokens_per_s == pytest.approx(15 / 0.5)
    assert record.decode_tokens_per_s == pytest.approx(8 / 2.0)


def test_a_prompt_counts_once_for_all_its_choices() -> None:
    choices = [Progress(0, 20, 1, 2, 3, cached, 4) for cached in (0, 19, 19)]
    record = closed(*choices, Progress(0, 7, 1, 2, 3, 0, 1), Progress(0, 7, 1, 2, 3, 6, 1), Progress(0, 7), n=3)
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (27, 0, 14)


def test_choices_that_come_later_do_not_slow_the_prefill_down() -> None:
    record = closed(Progress(0, 100, 1, 2, 9, 0, 5), Progress(0, 100, 2.5, 3.0, 9, 99, 5), n=2)
    assert record.prefill_tokens_per_s == pytest.approx(100)
    assert record.queue_wait_s == pytest.approx(1)


def test_reasons_are_named_once_and_the_exact_counts_are_the_endings() -> None:
    endings = {
        0: Finished("stop", Usage(3, 5, 0)),
        1: Finished("length", Usage(3, 8, 0)),
        2: Finished("stop", Usage(3, 6, 0)),
    }
    record = closed(*(Progress(0, 3, 0, 1, 2, 0, 4) for _ in range(3)), n=3, finished=endings)
    assert record.finish_reasons == ["length", "stop"]
    assert record.completion_tokens == 5 + 8 + 6


def test_what_never_ran_has_no_times() -> None:
    record = closed(Progress(0, 20), status=504)
    assert record.queue_wait_s is record.first_token_s is None
    assert record.prefill_tokens_per_s is record.decode_tokens_per_s is None
    assert record.finish_reasons == []


def test_a_request_that_was_left_in_the_middle_counts_up_to_there() -> None:
    record = closed(Progress(0, 20, 0, 0.001, None, 0, 12), status=499)
    assert record.is_cancelled
    assert record.completion_tokens == 12
    assert record.decode_tokens_per_s is None or record.decode_tokens_per_s > 0


def test_a_request_that_never_reached_the_engine_has_no_choices() -> None:
    record = Account("queue", "id").close(200)
    assert record.choices == ()
    assert (record.prompt_tokens, record.completion_tokens, record.first_token_s) == (0, 0, None)
