"""Tests of the variables by which templates change the thinking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worker_gguf.template.chat_template import ChatTemplate
from worker_gguf.template.thinking import ThinkingVariables

TEMPLATES = Path(__file__).parents[3] / "shared" / "templates"
MESSAGES = "{% for m in messages %}{{ m.content }}{% endfor %}"


def variables_of(source: str) -> ThinkingVariables:
    return ChatTemplate(MESSAGES + source).shape.thinking


def published(name: str) -> ThinkingVariables:
    path = TEMPLATES / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"{path} is not here: it comes with the shared folder beside the repository")
    return ChatTemplate(path.read_text(), bos_token="<s>", eos_token="</s>").shape.thinking


def test_a_template_without_variables_knows_nothing() -> None:
    thinking = variables_of("")
    assert thinking == ThinkingVariables()
    assert thinking.of_switch(True, {}) is thinking.of_effort("low", {}) is thinking.of_budget(5, {}) is None


@pytest.mark.parametrize(
    ("source", "on", "off"),
    [
        ("{{ '' if enable_thinking is false else '<think>' }}", {"enable_thinking": True}, {"enable_thinking": False}),
        ("{{ '<think>' if thinking }}", {"thinking": True}, {"thinking": False}),
        ("{{ thinking_mode == 'disabled' }}", {"thinking_mode": "enabled"}, {"thinking_mode": "disabled"}),
        ("{{ thinking_option == 'off' }}", {"thinking_option": "on"}, {"thinking_option": "off"}),
        ("{{ thinking_budget == 0 }}", {"thinking_budget": -1}, {"thinking_budget": 0}),
    ],
)
def test_a_switch_is_found_by_its_effect(source: str, on: dict[str, Any], off: dict[str, Any]) -> None:
    thinking = variables_of(source)
    assert (thinking.of_switch(True, {}), thinking.of_switch(False, {})) == (on, off)
    assert (thinking.of_effort("low", {}), thinking.of_effort("none", {})) == (on, off)
    assert thinking.of_switch(True, off) == {}


def test_an_effort_becomes_the_next_one_that_the_template_knows() -> None:
    refuses = "{% if reasoning_effort not in ['low', 'high'] %}{{ raise_exception('no') }}{% endif %}"
    thinking = variables_of("{% if reasoning_effort %}" + refuses + "{{ reasoning_effort }}{% endif %}")
    assert thinking.efforts == ("low", "high")
    known = {effort: (thinking.of_effort(effort, {}) or {})["reasoning_effort"] for effort in ("minimal", "xhigh")}
    assert known == {"minimal": "low", "xhigh": "high"}


def test_where_any_effort_is_printed_only_common_ones_and_those_of_the_source_are_used() -> None:
    assert variables_of("{{ reasoning_effort }}").efforts == ("none", "low", "medium", "high")
    named = "{% if reasoning_effort == 'xhigh' %}!{% endif %}{{ reasoning_effort }}"
    assert variables_of(named).of_effort("max", {}) == {"reasoning_effort": "xhigh"}


def test_a_word_of_its_own_reaches_a_template_that_names_it_and_no_other() -> None:
    thinking = variables_of("{% if reasoning_effort == 'ultra' %}!{% endif %}{{ reasoning_effort }}")
    assert thinking.of_effort("ultra", {}) == {"reasoning_effort": "ultra"}
    assert thinking.of_effort("banana", {}) is None
    with_switch = variables_of("{% if thinking %}T{{ reasoning_effort }}{% endif %}")
    assert with_switch.of_effort("banana", {}) is None
    assert published("openai-gpt-oss-120b").of_effort("banana", {}) is None


def test_an_effort_turns_the_switch_on_where_a_template_has_both() -> None:
    thinking = variables_of("{% if thinking %}T{{ reasoning_effort }}{% endif %}")
    assert thinking.of_effort("high", {}) == {"thinking": True, "reasoning_effort": "high"}
    assert thinking.of_effort("none", {}) == {"thinking": False}
    assert thinking.of_effort("high", {"thinking": False}) == {"reasoning_effort": "high"}
    assert thinking.of_effort("high", {"reasoning_effort": "low"}) == {}


def test_a_budget_reaches_a_template_that_tells_the_model() -> None:
    thinking = published("ByteDance-Seed-OSS")
    assert thinking.of_budget(512, {}) == {"thinking_budget": 512}
    assert thinking.of_budget(512, {"thinking_budget": 0}) == {}


def test_published_efforts() -> None:
    assert published("openai-gpt-oss-120b").of_effort("minimal", {}) == {"reasoning_effort": "low"}
    hunyuan = published("tencent-Hy3")
    words = [(hunyuan.of_effort(effort, {}) or {})["reasoning_effort"] for effort in ("none", "low", "medium", "max")]
    assert words == ["no_think", "low", "low", "high"]
