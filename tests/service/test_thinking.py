"""Tests of what a request wants of the thinking, for templates and models that know more or less of it."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.engine.request import Thinking
from worker_gguf.protocol.calls import ChatCall, Defaults
from worker_gguf.protocol.openai.requests import parse_chat
from worker_gguf.service.thinking import thinking_variables, with_budget
from worker_gguf.template.thinking import Switch, ThinkingVariables

THINKING = Thinking("<think>", ("</think>",), is_open=True)
NOTHING = ThinkingVariables()
SWITCH = ThinkingVariables(Switch("enable_thinking"))
BUDGET = ThinkingVariables(Switch("thinking_budget", -1, 0), reads_budget=True)


def call(**fields: Any) -> ChatCall:
    return parse_chat({"messages": [{"role": "user", "content": "Hi"}], **fields}, Defaults())


def honoured(known: ThinkingVariables, thinking: Thinking | None, **fields: Any) -> tuple[Thinking | None, Any]:
    made = call(**fields)
    _, unmet = thinking_variables(known, made)
    return with_budget(thinking, made.reasoning, unmet)


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({}, {}),
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"thinking": True}, {"enable_thinking": True}),
        ({"reasoning_effort": "high"}, {"enable_thinking": True}),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True}),
        ({"thinking_budget": 5}, {}),
    ],
)
def test_wishes_become_the_variables_that_the_template_reads(fields: Any, variables: dict[str, Any]) -> None:
    assert thinking_variables(SWITCH, call(**fields))[0] == variables


def test_a_budget_is_told_to_a_model_that_reads_it() -> None:
    assert thinking_variables(BUDGET, call(thinking_budget=512))[0] == {"thinking_budget": 512}
    assert thinking_variables(BUDGET, call(thinking_budget=512, enable_thinking=True))[0] == {"thinking_budget": 512}
    assert honoured(BUDGET, None, thinking_budget=512) == (None, ())


def test_a_budget_is_kept_by_the_engine() -> None:
    thinking, ignored = honoured(NOTHING, THINKING, thinking_budget=9, reasoning_budget_message="Enough.")
    assert thinking == Thinking("<think>", ("</think>",), is_open=True, budget=9, message="Enough.")
    assert ignored == ()
    assert honoured(NOTHING, THINKING, thinking_budget=-1) == (THINKING, ())


def test_thinking_without_a_switch_is_ended_at_once() -> None:
    for fields in ({"enable_thinking": False}, {"reasoning_effort": "none"}):
        thinking, ignored = honoured(NOTHING, THINKING, thinking_budget=9, **fields)
        assert thinking is not None
        assert (thinking.budget, ignored) == (0, ())
        assert honoured(SWITCH, THINKING, **fields) == (THINKING, ())


def test_a_message_for_the_end_of_no_thinking_is_named() -> None:
    off = {"reasoning_budget_message": "Enough.", "thinking_budget": 9, "enable_thinking": False}
    assert honoured(NOTHING, THINKING, **off) == (
        Thinking("<think>", ("</think>",), is_open=True, budget=0),
        ("reasoning_budget_message",),
    )
    thinking, ignored = honoured(SWITCH, THINKING, **off)
    assert thinking is not None
    assert (thinking.message, ignored) == ("", ("reasoning_budget_message",))


def test_an_unknown_effort_is_named() -> None:
    known = ThinkingVariables(efforts=("low", "high"), words=frozenset({"low", "high", "ultra"}))
    assert honoured(known, THINKING, reasoning_effort="banana") == (THINKING, ("reasoning_effort",))
    assert honoured(known, THINKING, reasoning_effort="ultra") == (THINKING, ())


def test_what_a_model_does_anyway_is_honoured_and_what_it_cannot_is_named() -> None:
    assert honoured(NOTHING, THINKING, enable_thinking=True) == (THINKING, ())
    assert honoured(NOTHING, THINKING, reasoning_effort="high") == (THINKING, ("reasoning_effort",))
    assert honoured(NOTHING, None, reasoning_effort="high", enable_thinking=True) == (
        None,
        ("reasoning_effort", "enable_thinking"),
    )
    assert honoured(NOTHING, None, thinking_budget=-1) == (None, ())
    assert honoured(NOTHING, None, thinking_budget=5, reasoning_budget_message="x") == (
        None,
        ("thinking_budget", "reasoning_budget_message"),
    )
