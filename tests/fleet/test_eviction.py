"""Tests of the choice of the models to unload."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from worker_gguf.fleet.eviction import eviction_for

SIZES = {"a": 1, "b": 2, "c": 3, "d": 4}


def room_for(n: int) -> Callable[[frozenset[str]], bool]:
    """Ten in all, of which the target takes `n`."""
    return lambda others: sum(SIZES[name] for name in others) + n <= 10


def test_nothing_goes_when_there_is_room() -> None:
    assert eviction_for(frozenset("ab"), ["a", "b"], room_for(7)) == ()


def test_the_least_recently_used_goes_first() -> None:
    assert eviction_for(frozenset("abc"), ["b", "a", "c"], room_for(5)) == ("b",)


def test_a_model_that_frees_too_little_is_kept_if_a_later_one_frees_enough() -> None:
    assert eviction_for(frozenset("abcd"), ["a", "d", "b"], room_for(4)) == ("d",)


def test_not_even_all_candidates_may_be_enough() -> None:
    assert eviction_for(frozenset("abcd"), ["a", "b"], room_for(6)) is None


@given(st.sets(st.sampled_from("abcd")), st.permutations("abcd"), st.integers(0, 10), st.integers(0, 4))
def test_what_goes_is_enough_and_not_one_too_many(
    loaded: set[str], order: list[str], size: int, n_candidates: int
) -> None:
    candidates = [name for name in order if name in loaded][:n_candidates]
    fits = room_for(size)
    gone = eviction_for(frozenset(loaded), candidates, fits)
    if gone is None:
        assert not fits(frozenset(loaded - set(candidates)))
        return
    assert set(gone) <= set(candidates)
    assert fits(frozenset(loaded - set(gone)))
    assert not any(fits(frozenset(loaded - set(gone) | {name})) for name in gone)
