"""Tests of guesses from a sequence's own tokens, with tokens that a grammar forced."""

from __future__ import annotations

import pytest

from worker_gguf.engine.lookup import Chances, Lookup

# What comes after 1, 2, 3 came before, too.
REPEATED = [1, 2, 3, 40, 41, 42, 9, 1, 2, 3]


def test_a_repetition_is_taken_to_go_on() -> None:
    offer = Lookup(REPEATED, set(), Chances(0.5)).offer(9)
    assert offer is not None
    assert offer.tokens == [40, 41, 42, 9, 1, 2, 3, 40, 41]
    assert offer.chances[:3] == offer.gains[:3] == [0.5, 0.25, 0.125]
    assert Lookup([1, 2, 3, 4], set(), Chances()).offer(3) is None


def test_forced_tokens_are_certain_and_save_nothing() -> None:
    offer = Lookup(REPEATED, {4, 5}, Chances(0.5)).offer(4)
    assert offer is not None
    assert offer.tokens == [40, 41, 42, 9]
    assert offer.chances == [0.5, 0.5, 0.5, 0.25]
    assert offer.gains == [0.5, 0.0, 0.0, 0.25]


@pytest.mark.parametrize(("least", "n"), [(0.9, 0), (0.5, 1), (0.25, 4)])
def test_forced_tokens_are_guessed_only_before_drawn_ones(least: float, n: int) -> None:
    offer = Lookup(REPEATED, {4, 5}, Chances(0.5)).offer(4)
    assert offer is not None
    assert offer.count(least) == n


def test_only_drawn_tokens_teach_how_often_guesses_are_right() -> None:
    chances, tokens, forced = Chances(0.5), list(REPEATED), {10, 11}
    lookup = Lookup(tokens, forced, chances)
    tokens += [40, 41]
    lookup.note(2)
    assert chances.short == 0.5
    tokens.append(42)
    lookup.note(1)
    assert chances.short > 0.5
