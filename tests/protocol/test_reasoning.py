"""Tests of what a request says about reasoning, under the names of several APIs."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import ChatCall, Defaults
from worker_gguf.protocol.openai.requests import parse_chat, parse_completion
from worker_gguf.protocol.reasoning import Asked, ReasoningRequest


def parsed(**fields: Any) -> ChatCall:
    return parse_chat({"messages": [{"role": "user", "content": "Hi"}], **fields}, Defaults())


def read(**fields: Any) -> ReasoningRequest:
    return parsed(**fields).reasoning


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        parsed(**fields)
    return refused.value


def test_a_request_that_says_nothing_gets_its_reasoning_apart() -> None:
    assert read() == read(reasoning={}, reasoning_format="auto", reasoning_budget_message="") == ReasoningRequest()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"enable_thinking": False}, "enable_thinking"),
        ({"thinking": False}, "thinking"),
        ({"thinking": {"type": "disabled"}}, "thinking.type"),
        ({"reasoning": {"enabled": False}}, "reasoning.enabled"),
    ],
)
def test_thinking_has_several_switches(fields: dict[str, Any], name: str) -> None:
    assert read(**fields).switch == Asked(False, (name,))


@pytest.mark.parametrize("kind", ["adaptive", "auto"])
def test_a_model_may_be_left_to_itself(kind: str) -> None:
    assert read(thinking={"type": kind}).switch is None


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"thinking_budget_tokens": 9}, "thinking_budget_tokens"),
        ({"thinking_budget": 9}, "thinking_budget"),
        ({"reasoning_budget": 9}, "reasoning_budget"),
        ({"reasoning_budget_tokens": 9.0}, "reasoning_budget_tokens"),
        ({"thinking_token_budget": 9}, "thinking_token_budget"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9.0}}, "thinking.budget_tokens"),
        ({"reasoning": {"max_tokens": 9}}, "reasoning.max_tokens"),
    ],
)
def test_a_budget_has_several_names(fields: dict[str, Any], name: str) -> None:
    assert read(**fields).budget == Asked(9, (name,))


def test_an_effort_has_two_names() -> None:
    assert read(reasoning_effort="low").effort == Asked("low", ("reasoning_effort",))
    assert read(reasoning={"effort": "low"}).effort == Asked("low", ("reasoning.effort",))


def test_names_that_agree_are_one_wish() -> None:
    request = read(reasoning_effort="none", reasoning={"effort": "none", "enabled": False}, enable_thinking=False)
    assert request.effort == Asked("none", ("reasoning_effort", "reasoning.effort"))
    assert request.switch == Asked(False, ("enable_thinking", "reasoning.enabled"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"enable_thinking": True, "thinking": {"type": "disabled"}}, "thinking.type"),
        ({"enable_thinking": True, "reasoning_effort": "none"}, "reasoning_effort"),
        ({"thinking": False, "reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"enable_thinking": False, "chat_template_kwargs": {"thinking": True}}, "chat_template_kwargs.thinking"),
        ({"thinking_budget": 5, "reasoning": {"max_tokens": 6}}, "reasoning.max_tokens"),
        ({"include_reasoning": True, "reasoning": {"exclude": True}}, "reasoning.exclude"),
        ({"include_reasoning": False, "reasoning_format": "none"}, "reasoning_format"),
        ({"reasoning": {"effort": "low"}, "chat_template_kwargs": {"reasoning_effort": "high"}}, "reasoning.effort"),
    ],
)
def test_a_contradiction_is_refused(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.param) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_format": "xml"}, "reasoning_format"),
        ({"enable_thinking": "yes"}, "enable_thinking"),
        ({"thinking": "yes"}, "thinking"),
        ({"thinking": {"type": "often"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": "many"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": True}}, "thinking.budget_tokens"),
        ({"thinking_budget": -2}, "thinking_budget"),
        ({"reasoning": {"effort": 3}}, "reasoning.effort"),
        ({"reasoning": {"max_tokens": -2}}, "reasoning.max_tokens"),
        ({"reasoning": {"enabled": 1}}, "reasoning.enabled"),
        ({"reasoning": {"exclude": "no"}}, "reasoning.exclude"),
    ],
)
def test_a_bad_value_names_its_place(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


def test_the_template_s_own_variables_win_over_an_effort() -> None:
    call = parsed(reasoning_effort="none", chat_template_kwargs={"enable_thinking": True})
    assert call.template_variables == {"enable_thinking": True}


@pytest.mark.parametrize(
    ("name", "form"), [("auto", "apart"), ("deepseek", "apart"), ("none", "content"), ("deepseek-legacy", "both")]
)
def test_the_formats_of_llama_server(name: str, form: str) -> None:
    assert read(reasoning_format=name).form == form


def test_reasoning_can_be_left_out_of_the_answer() -> None:
    assert read(include_reasoning=False).is_hidden
    assert read(reasoning={"exclude": True}).is_hidden
    assert not read(include_reasoning=True, reasoning={"exclude": False}).is_hidden


def test_what_has_no_effect_is_named() -> None:
    call = parsed(
        reasoning={"effort": "low", "summary": "auto"},
        thinking={"type": "enabled", "display": "omitted"},
        reasoning_budget_message="Now answer.",
    )
    assert call.options.ignored == ("reasoning.summary", "reasoning_budget_message", "thinking.display")
    assert parsed(reasoning_budget_message="x", thinking_budget=3).options.ignored == ()


def test_a_completion_is_not_split() -> None:
    for name in ("enable_thinking", "thinking_budget"):
        with pytest.raises(UnsupportedParameter) as refused:
            parse_completion({"prompt": "x", name: 1}, Defaults())
        assert refused.value.param == name
    assert parse_completion({"prompt": "x", "include_reasoning": True}, Defaults()).options.ignored == (
        "include_reasoning",
    )
