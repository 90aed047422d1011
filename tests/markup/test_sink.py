"""Tests of making parts."""

from __future__ import annotations

from collections.abc import Iterator

from worker_gguf.markup.parts import Content, Reasoning, ToolCall
from worker_gguf.markup.sink import Sink


def ids() -> Iterator[str]:
    return iter("abcdef")


def sink(*, holds_calls: bool) -> Sink:
    numbers = ids()
    return Sink(holds_calls, lambda: next(numbers))


def test_pieces_of_the_same_kind_are_joined() -> None:
    made = sink(holds_calls=False)
    made.reasoning("1")
    made.reasoning("2")
    made.content("3")
    made.content("")
    made.content("4")
    assert made.take() == [Reasoning("12"), Content("34")]
    assert made.take() == []


def test_the_first_piece_of_a_call_has_its_name_and_later_ones_have_not() -> None:
    made = sink(holds_calls=False)
    made.open_call("f")
    made.arguments("{")
    assert made.take() == [ToolCall(0, "a", "f", "{")]
    made.arguments('"')
    made.arguments("}")
    made.close_call()
    made.open_call("g")
    assert made.take() == [ToolCall(0, None, None, '"}'), ToolCall(1, "b", "g", "")]
    assert made.has_half_call


def test_a_held_call_comes_whole_or_not_at_all() -> None:
    made = sink(holds_calls=True)
    made.open_call("f")
    made.arguments("{")
    made.drop_call()
    made.open_call("g")
    made.arguments("{}")
    assert made.take() == []
    made.close_call()
    assert made.take() == [ToolCall(0, "a", "g", "{}")]


def test_a_dropped_call_is_remembered_after_a_whole_one() -> None:
    made = sink(holds_calls=False)
    made.open_call("f")
    made.close_call()
    assert not made.has_half_call
    made.open_call("g")
    made.drop_call()
    made.open_call("h")
    made.close_call()
    assert made.has_half_call


def test_the_calls_of_a_list_are_held_until_its_end() -> None:
    made = sink(holds_calls=True)
    for end in (made.drop_list, made.end_list):
        made.begin_list()
        made.open_call("f")
        made.arguments("{}")
        made.close_call()
        assert made.take() == []
        end()
    assert made.take() == [ToolCall(0, "a", "f", "{}")]
