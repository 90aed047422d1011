"""Tests of the prompt cache: the sizes of states, and what is kept."""

from __future__ import annotations

import sys
from types import FrameType

from tests.fakes import limits
from worker_gguf.engine.batch import Saved
from worker_gguf.engine.costs import StepCosts
from worker_gguf.engine.prompt_cache import PromptCache


def cache_of(limit_bytes: int, **changes: object) -> PromptCache:
    costs = StepCosts()
    costs.note(1, 0, 0.01)
    costs.note(1, 100, 10.01)
    return PromptCache(limit_bytes, limits(**changes), costs)


def saved(cache: PromptCache, tokens: list[int], n_bytes: int, seconds: float = 0.0) -> int:
    key, _ = cache.add(tokens)
    assert key is not None
    cache.note(Saved(key, n_bytes, seconds))
    return key


def test_a_constant_part_of_a_state_is_not_multiplied_by_its_tokens() -> None:
    cache = cache_of(1000, saved_prefix="whole")
    saved(cache, [1] * 3, 150)
    key, drops = cache.add([2] * 200)
    assert key is not None
    assert drops == []


def test_the_size_of_a_state_is_learned_from_the_shortest_and_the_longest() -> None:
    cache = cache_of(10_000, saved_prefix="whole")
    saved(cache, [1] * 10, 110)
    saved(cache, [2] * 100, 200, seconds=2.0)
    assert cache.seconds_of(300) == 4.0


def test_a_slow_save_is_tried_again_later() -> None:
    cache = cache_of(10_000)
    saved(cache, [1] * 100, 100, seconds=8.0)
    n_refused = 0
    while not cache.is_worth(100):
        cache.note_refused(100)
        n_refused += 1
    assert 3 < n_refused < 20


def test_short_states_do_not_hasten_the_next_try() -> None:
    cache = cache_of(10_000)
    saved(cache, [1] * 100, 100, seconds=8.0)
    for _ in range(100):
        assert not cache.is_worth(0)
        cache.note_refused(0)
    assert not cache.is_worth(100)


def test_the_size_follows_states_that_are_saved_grow_and_go() -> None:
    cache = cache_of(1000)
    assert cache.n_bytes == 0
    first = saved(cache, [1] * 10, 100)
    key, _ = cache.add([2] * 21)
    assert key is not None
    assert cache.n_bytes == 310  # an estimate, until it is saved
    cache.note(Saved(key, 250, 0.0))
    assert cache.n_bytes == 350
    unsaved, _ = cache.add([3] * 30)
    assert unsaved is not None
    cache.note(Saved(unsaved, 0, 0.0))
    assert cache.n_bytes == 350
    cache.forget(first)
    assert cache.n_bytes == 250
    cache.clear()
    assert cache.n_bytes == 0


def test_the_size_is_read_without_a_look_at_each_state() -> None:
    cache = cache_of(10_000)
    for first in range(500):
        saved(cache, [first] * 10, 10)
    n_calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal n_calls
        n_calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        n_bytes = cache.n_bytes
    finally:
        sys.setprofile(before)
    assert n_bytes == 5000
    assert n_calls <= 2
