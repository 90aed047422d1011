"""Tests of which model is in memory and which requests wait, with a clock that is a number."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from worker_gguf.errors import ModelInvalid, NotEnoughMemory, NotReady, QueueFull
from worker_gguf.fleet.residence import Admit, Effect, Fetch, Load, Refuse, Residence, Rules, Unload, Wake

RULES = Rules(min_residence_s=3, turn_s=10, most_waiting=4, retry_s=10)


def fits_in(room: int, **sizes: int) -> Callable[[str, frozenset[str]], bool]:
    def fits(name: str, others: frozenset[str]) -> bool:
        if sizes[name] > room:
            raise NotEnoughMemory(f"{name} needs {sizes[name]}, there is {room}.")
        return sizes[name] + sum(sizes[other] for other in others) <= room

    return fits


def residence(rules: Rules = RULES, *, room: int = 1, **sizes: int) -> Residence:
    """Models of size 1 unless it is said, all on disk, `a` loaded at 0."""
    sizes = sizes or {"a": 1, "b": 1}
    made = Residence(sizes, rules, fits_in(room, **sizes))
    for name in sizes:
        made.found(name, 0)
    made.loaded_now("a", 0)
    return made


def test_a_loaded_model_answers_at_once() -> None:
    assert residence().request(1, "a", 100) == [Admit(1)]


def test_a_model_that_is_not_loaded_makes_room_first() -> None:
    fleet = residence()
    assert fleet.request(1, "b", 100) == [Unload("a")]
    assert fleet.unloaded_now("a", 101) == [Load("b")]
    assert fleet.loaded_now("b", 102) == [Admit(1)]
    assert fleet.n_unloads == 1


def test_nothing_is_unloaded_where_both_fit() -> None:
    fleet = residence(room=2)
    assert fleet.request(1, "b", 0) == [Load("b")]
    fleet.loaded_now("b", 1)
    assert fleet.loaded == {"a", "b"}


def test_most_loaded_limits_the_number_of_loaded_models() -> None:
    fleet = residence(Rules(min_residence_s=0, turn_s=0, most_loaded=1), room=9)
    assert fleet.request(1, "b", 0) == [Unload("a")]


def test_a_model_stays_for_its_minimum_even_if_idle() -> None:
    fleet = residence()
    assert fleet.request(1, "b", 1) == [Wake(3)]
    assert fleet.tick(2.9) == [Wake(3)]
    assert fleet.tick(3) == [Unload("a")]


def test_a_busy_model_takes_requests_until_its_turn_is_over() -> None:
    fleet = residence()
    fleet.request(1, "a", 0)
    assert fleet.request(2, "b", 5) == [Wake(10)]
    assert fleet.request(3, "a", 6) == [Admit(3)]
    fleet.tick(10)
    assert fleet.request(4, "a", 11) == []
    assert fleet.ended(1, 12) == []
    assert fleet.ended(3, 13) == [Unload("a")]
    fleet.unloaded_now("a", 14)
    assert fleet.loaded_now("b", 15) == [Admit(2), Wake(18)]


def test_all_that_waited_run_in_the_order_they_came() -> None:
    fleet = residence(Rules(min_residence_s=0, turn_s=0))
    fleet.request(1, "a", 0)
    for ticket in (2, 3, 4):
        assert fleet.request(ticket, "b", ticket) == []
    assert fleet.ended(1, 5) == [Unload("a")]
    fleet.unloaded_now("a", 5)
    assert fleet.loaded_now("b", 6) == [Admit(2), Admit(3), Admit(4)]


def test_waiting_requests_are_served_before_the_next_swap_under_any_rules() -> None:
    fleet = residence(Rules(min_residence_s=0, turn_s=0))
    fleet.request(1, "b", 0)
    fleet.request(2, "a", 0)
    fleet.unloaded_now("a", 0)
    assert fleet.loaded_now("b", 0) == [Admit(1)]
    assert fleet.ended(1, 0) == [Unload("b")]


def test_the_model_whose_first_request_waited_longest_is_next() -> None:
    fleet = residence(a=1, b=1, c=1)
    fleet.request(1, "c", 0)
    fleet.request(2, "b", 1)
    assert fleet.tick(3) == [Unload("a")]
    assert fleet.unloaded_now("a", 3) == [Load("c")]


def test_the_least_recently_used_idle_model_goes_and_a_busy_one_stays() -> None:
    fleet = residence(room=3, a=1, b=1, c=1, d=1)
    for now, name in ((1.0, "b"), (2.0, "c")):
        fleet.request(int(now), name, now)
        fleet.loaded_now(name, now)
        fleet.ended(int(now), now)
    fleet.request(10, "a", 20)  # the longest unused, but it generates
    assert fleet.request(11, "d", 21) == [Unload("b")]


def test_a_client_that_leaves_opens_the_model_that_was_closed_for_it() -> None:
    fleet = residence()
    fleet.request(1, "a", 0)
    fleet.request(2, "b", 20)
    assert fleet.request(3, "a", 21) == []
    assert fleet.ended(2, 22) == [Admit(3)]


def test_nothing_is_loaded_if_all_waiting_clients_have_left() -> None:
    fleet = residence()
    fleet.request(1, "b", 20)
    fleet.ended(1, 21)
    assert fleet.unloaded_now("a", 22) == []
    assert fleet.request(2, "a", 23) == [Load("a")]


def test_a_model_that_is_not_on_disk_is_fetched_once_and_delays_no_other_model() -> None:
    fleet = Residence("ab", RULES, fits_in(1, a=1, b=1))
    fleet.loaded_now("a", 0)
    assert fleet.request(1, "b", 50) == [Fetch("b")]
    assert fleet.request(2, "b", 51) == []
    assert fleet.request(3, "a", 52) == [Admit(3)]
    assert fleet.ended(3, 53) == []
    assert fleet.found("b", 54) == [Unload("a")]


def test_a_failed_load_refuses_all_waiting_requests_and_is_retried_after_a_pause() -> None:
    fleet = residence()
    fleet.request(1, "b", 20)
    fleet.request(2, "b", 20)
    fleet.unloaded_now("a", 20)
    why = ModelInvalid("It is broken.")
    assert fleet.failed("b", why, 21) == [Refuse(1, why), Refuse(2, why)]
    with pytest.raises(NotReady, match="It is broken") as caught:
        fleet.request(3, "b", 30)
    assert caught.value.retry_after_s == 2
    assert fleet.request(4, "a", 30.5) == [Load("a")]
    fleet.loaded_now("a", 31)
    fleet.ended(4, 32)
    assert fleet.request(5, "b", 40) == [Unload("a")]
    fleet.unloaded_now("a", 40)
    fleet.failed("b", why, 41)
    with pytest.raises(NotReady):
        fleet.request(6, "b", 60)  # the second pause is twice as long


def test_a_model_that_can_never_fit_is_refused_and_costs_the_others_nothing() -> None:
    fleet = residence(room=2, a=1, b=3)
    (refused,) = fleet.request(1, "b", 50)
    assert isinstance(refused, Refuse)
    assert "needs 3" in refused.why.message
    assert fleet.places["b"].state == "failed"
    assert fleet.loaded == {"a"}


def test_no_more_wait_than_may() -> None:
    fleet = residence()
    for ticket in range(4):
        fleet.request(ticket, "b", 1)
    with pytest.raises(QueueFull, match="4 requests wait"):
        fleet.request(4, "b", 1)
    assert fleet.n_open == 4


def test_give_up_refuses_waiting_requests_and_keeps_running_ones() -> None:
    fleet = residence()
    fleet.request(1, "a", 0)
    fleet.request(2, "b", 1)
    why = NotReady("The worker stops.")
    assert fleet.give_up(why) == [Refuse(2, why)]
    assert fleet.n_open == 1


def test_strictly_alternating_requests_swap_no_oftener_than_the_minimum_residence() -> None:
    """One client waits for each answer, so each answer needs a swap, and each residence lasts its minimum."""
    fleet = residence()
    now_s = 0.0
    loaded = "a"
    for ticket, name in zip(range(20), itertools.cycle("ba"), strict=False):
        effects: list[Effect] = fleet.request(ticket, name, now_s)
        while Admit(ticket) not in effects:
            (effect,) = effects
            if isinstance(effect, Wake):
                now_s = effect.at_s
                effects = fleet.tick(now_s)
            elif isinstance(effect, Unload):
                effects = fleet.unloaded_now(loaded, now_s)
            else:
                effects, loaded = fleet.loaded_now(name, now_s), name
        now_s += 0.5
        fleet.ended(ticket, now_s)
    assert fleet.n_unloads == 20
    assert fleet.n_unloads <= now_s / RULES.min_residence_s + 1
