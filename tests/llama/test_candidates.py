"""Tests that the candidates of a row contain every token that can be sampled."""

from __future__ import annotations

import numpy as np
import pytest

from worker_gguf.llama.candidates import FOLD, MOST_TOGETHER, Floats, Largest, Level, Near, shortlists, worth_folding

SIZES = [128_256, 128 * FOLD, 128 * FOLD + 7, 151_936 + 63]


def block(n_rows: int, n_vocab: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((n_rows, n_vocab)).astype(np.float32)


@pytest.mark.parametrize("n_vocab", SIZES)
@pytest.mark.parametrize("k", [1, 40, 100])
def test_the_largest_are_among_the_candidates_of_each_row(n_vocab: int, k: int) -> None:
    for scale in (0.01, 1.0, 100.0):
        logits = block(3, n_vocab, k) * np.float32(scale)
        for row, found in zip(logits, shortlists(logits, [Largest(k)] * 3), strict=True):
            assert set(np.argsort(-row)[:k]) <= set(found.ids)
            assert len(set(found.ids)) == len(found.ids)
            assert (row[found.ids] == found.logits).all()


def test_rows_that_want_different_things_are_searched_together() -> None:
    logits = block(6, 151_936 + 63)
    wanted: list[Largest | Near] = [
        Largest(40),
        Near(1.5),
        Largest(1),
        Largest(MOST_TOGETHER + 500),
        Near(0.0),
        Largest(3),
    ]
    for row, want, found in zip(logits, wanted, shortlists(logits, wanted), strict=True):
        if isinstance(want, Near):
            assert set(np.flatnonzero(row >= row.max() - want.distance)) <= set(found.ids)
        else:
            assert set(np.argsort(-row)[: want.k]) <= set(found.ids)
        assert (row[found.ids] == found.logits).all()


def test_rows_of_a_larger_array_are_searched_in_place() -> None:
    part = block(4, 128 * FOLD + 7)[1:3]
    in_place, copied = (shortlists(rows, [Largest(5)] * 2) for rows in (part, part.copy()))
    assert [list(found.ids) for found in in_place] == [list(found.ids) for found in copied]


def test_ties_at_the_border_stay() -> None:
    logits = np.zeros((1, 128 * FOLD), np.float32)
    logits[0, [5, 77, 4000]] = 1.0
    assert set(shortlists(logits, [Largest(2)])[0].ids) == {5, 77, 4000}


@pytest.mark.parametrize("n_vocab", SIZES)
@pytest.mark.parametrize("distance", [0.5, 2.0])
def test_near_has_every_logit_within_the_distance(n_vocab: int, distance: float) -> None:
    logits = block(2, n_vocab)
    for row, found in zip(logits, shortlists(logits, [Near(distance)] * 2), strict=True):
        assert set(np.flatnonzero(row >= row.max() - distance)) <= set(found.ids)


def test_the_largest_may_be_behind_the_last_column() -> None:
    logits = np.zeros((1, 128 * FOLD + 7), np.float32)
    logits[0, -1] = 9.0
    for want in (Largest(1), Near(0.5)):
        assert 128 * FOLD + 6 in shortlists(logits, [want])[0].ids


def test_a_row_without_numbers_has_no_candidates_and_spoils_no_other() -> None:
    logits = block(2, 128 * FOLD)
    logits[0] = np.nan
    spoiled, whole = shortlists(logits, [Largest(4), Largest(4)])
    assert spoiled.ids.size == 0
    assert set(np.argsort(-logits[1])[:4]) <= set(whole.ids)


def test_a_small_vocabulary_is_not_worth_it() -> None:
    assert not worth_folding(1024)
    assert worth_folding(128_256)


@pytest.mark.parametrize("jump", [0.0, 0.3, 5.0, -5.0])
@pytest.mark.parametrize("want", [Largest(40), Largest(700), Near(2.0)], ids=repr)
def test_with_the_levels_of_earlier_rows_the_candidates_are_still_complete(want: Largest | Near, jump: float) -> None:
    levels = [Level(), Level()]
    for at in range(12):
        logits = block(2, 151_936 + 63, at) * np.float32(1 + at % 3) + np.float32(at * jump)
        for row, found in zip(logits, shortlists(logits, [want, want], levels), strict=True):
            if isinstance(want, Near):
                assert set(np.flatnonzero(row >= row.max() - want.distance)) <= set(found.ids)
            else:
                assert set(np.argsort(-row)[: want.k]) <= set(found.ids)
            assert (np.diff(found.ids) > 0).all()
            assert (row[found.ids] == found.logits).all()


def test_a_level_that_holds_finds_few_candidates() -> None:
    level = Level()
    for at in range(10):
        (found,) = shortlists(block(1, 128_256, at), [Largest(40)], [level])
    assert level.expected is not None
    assert 40 <= found.ids.size <= 512


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_a_level_survives_a_row_without_finite_logits(value: float) -> None:
    level = Level()
    for at in range(3):
        shortlists(block(1, 128_256, at), [Largest(40)], [level])
    shortlists(np.full((1, 128_256), value, np.float32), [Largest(40)], [level])
    logits = block(1, 128_256, 9)
    (found,) = shortlists(logits, [Largest(40)], [level])
    assert set(np.argsort(-logits[0])[:40]) <= set(found.ids)
