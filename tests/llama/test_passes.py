"""Tests of the division of a step into groups that llama.cpp computes on their own."""

from __future__ import annotations

import math

import pytest

from worker_gguf.engine.batch import Chunk
from worker_gguf.llama.passes import divide


def chunk(slot: int, start: int, n_tokens: int = 1, n_outputs: int = 1) -> Chunk:
    return Chunk(slot, start, [7] * n_tokens, n_outputs)


def slots(*chunks: Chunk, cells_per_pass: float = math.inf) -> list[list[int]]:
    return [[each.slot for each in part] for part in divide(chunks, cells_per_pass)]


def test_sequences_of_like_length_stay_together() -> None:
    assert slots(chunk(0, 100), chunk(1, 150), chunk(2, 60, 40, 0)) == [[0, 1, 2]]


@pytest.mark.parametrize("long", [0, 3])
def test_a_long_prompt_at_an_end_goes_first_and_costs_no_further_pass(long: int) -> None:
    at = [chunk(slot, 4000, 64, 0) if slot == long else chunk(slot, 100) for slot in range(4)]
    assert slots(*at) == [[long], [slot for slot in range(4) if slot != long]]


def test_a_long_prompt_between_the_others_is_computed_apart_where_attention_costs_more_than_a_pass() -> None:
    at = [chunk(0, 99), chunk(1, 4036, 64, 0), chunk(2, 49)]
    assert slots(*at, cells_per_pass=2 * 4000) == [[0, 1, 2]]
    assert slots(*at, cells_per_pass=2 * 4000 - 1) == [[1], [0, 2]]


def test_a_long_answer_is_computed_apart_where_attention_costs_more_than_a_pass() -> None:
    at = [chunk(0, 99), chunk(1, 4099), chunk(2, 99)]
    assert slots(*at, cells_per_pass=4000) == [[0, 1, 2]]  # two further passes
    assert slots(*at, cells_per_pass=3999) == [[1], [0, 2]]
    assert slots(*at[:2], cells_per_pass=3999) == [[1], [0]]  # one


def test_each_guess_counts_as_a_row() -> None:
    at = [chunk(0, 96, 4, 4), chunk(1, 4099)]
    assert slots(*at, cells_per_pass=15_999) == [[1], [0]]
    assert slots(*at, cells_per_pass=16_000) == [[0, 1]]
