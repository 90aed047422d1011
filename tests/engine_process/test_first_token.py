"""Tests of the first token: one token of a new model, which leaves nothing in its memory."""

from __future__ import annotations

import math

from tests.fakes import FakeRunner, limits
from worker_gguf.engine.batch import Logprob, Sampled, StepResult
from worker_gguf.engine_process.first_token import first_token
from worker_gguf.errors import EngineFailed


def test_it_leaves_the_memory_empty_and_no_request_open() -> None:
    runner = FakeRunner(limits())
    drawn = first_token(runner, 7)
    assert isinstance(drawn, Sampled)
    assert runner.memory == [[], []]
    assert runner.open == {}
    assert [len(batch.chunks) for batch in runner.batches] == [1, 0]


def test_a_failed_decode_is_returned_and_forgotten_too() -> None:
    runner = FakeRunner(limits())
    runner.next_results = [StepResult(error=EngineFailed("llama_decode answered -3."))]
    failed = first_token(runner, 0)
    assert isinstance(failed, EngineFailed)
    assert runner.open == {}


def test_a_token_that_could_not_be_drawn_is_none() -> None:
    runner = FakeRunner(limits())
    runner.next_results = [StepResult(refused=((0, EngineFailed("No token could be drawn.")),))]
    assert first_token(runner, 1) is None


def test_a_token_without_a_number_is_still_a_token() -> None:
    runner = FakeRunner(limits())
    runner.next_results = [StepResult((Sampled(0, (3,), (Logprob(3, math.nan, ()),)),))]
    drawn = first_token(runner, 1)
    assert isinstance(drawn, Sampled)
    assert drawn.logprobs
    assert math.isnan(drawn.logprobs[0].logprob)
