"""Tests of conversations as clients keep them, under templates that accept less: no text is lost."""

from __future__ import annotations

from typing import Any

import pytest

from tests.shared_case import SHARED
from worker_gguf.errors import TemplateError
from worker_gguf.template.chat_template import ChatTemplate

# A template of each kind, written for this test.
ONE_SYSTEM = """
{%- for m in messages -%}
  {%- if m.role == 'system' -%}
    {%- if not loop.first %}{{ raise_exception('System message must be at the beginning.') }}{% endif -%}
  {%- endif -%}
  <{{ m.role }}>{{ m.content }}
{%- endfor -%}
{%- if add_generation_prompt %}<assistant>{% endif -%}
"""
OBJECT_CALLS = """
{%- for m in messages -%}
  <{{ m.role }}>{{ m.content or '' }}
  {%- if 'tool_calls' in m -%}
    {%- if m.tool_calls | length != 1 %}{{ raise_exception('only single tool-calls') }}{% endif -%}
    {%- for name, value in m.tool_calls[0].function.arguments.items() %}[{{ name }}={{ value }}]{% endfor -%}
  {%- endif -%}
{%- endfor -%}
"""
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
SWITCH = PLAIN + "{% if enable_thinking is false %}<no>{% endif %}"
EFFORT = "{{ 'Reasoning: ' ~ (reasoning_effort or 'medium') }}" + PLAIN


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def system(text: str, role: str = "system") -> dict[str, Any]:
    return {"role": role, "content": text}


def called(arguments: object) -> list[dict[str, Any]]:
    calls = [{"id": "call73910", "type": "function", "function": {"name": "find", "arguments": arguments}}]
    result = {"role": "tool", "tool_call_id": "call73910", "name": "find", "content": "nothing"}
    return [user("Find tea."), assistant("", tool_calls=calls), result, user("Try again.")]


# --- system messages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", [("developer", "system"), ("system", "developer"), ("system", "system")])
def test_system_messages_at_the_head_become_one_where_the_template_takes_one(roles: tuple[str, str]) -> None:
    messages = [system("English.", roles[0]), system("Tea.", roles[1]), user("Hi")]
    assert ChatTemplate(ONE_SYSTEM).prompt(messages) == "<system>English.\n\nTea.<user>Hi<assistant>"


def test_a_later_system_message_goes_to_the_next_user_or_to_the_one_before_it() -> None:
    template = ChatTemplate(ONE_SYSTEM)
    after_assistant = [system("S"), user("a"), assistant("b"), system("Rain."), user("c")]
    assert template.prompt(after_assistant) == "<system>S<user>a<assistant>b<user>Rain.\n\nc<assistant>"
    after_user = [user("a"), system("Rain."), assistant("b"), user("c")]
    assert template.prompt(after_user) == "<user>a\n\nRain.<assistant>b<user>c<assistant>"
    at_the_end = [user("a"), assistant("b"), system("Rain.")]
    assert template.prompt(at_the_end) == "<user>a<assistant>b<user>Rain.<assistant>"


def test_a_template_that_takes_system_messages_anywhere_gets_them_where_they_are() -> None:
    messages = [system("S"), system("T"), user("a"), system("Rain."), user("c")]
    assert ChatTemplate(PLAIN).prompt(messages) == "<system>S<system>T<user>a<system>Rain.<user>c"


# --- old tool calls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ('{"a": 1}', "[a=1]"),
        ({"a": 1}, "[a=1]"),
        ("", ""),
        ("null", ""),
        ("{}", ""),
        ('{"zone": "America/Li', '[arguments={"zone": "America/Li]'),
        ("[1, 2]", "[arguments=[1, 2]]"),
        ("tea", "[arguments=tea]"),
        ([1, 2], "[arguments=[1, 2]]"),
    ],
)
def test_arguments_reach_a_template_that_takes_an_object(arguments: object, written: str) -> None:
    prompt = ChatTemplate(OBJECT_CALLS).prompt(called(arguments))
    assert prompt == f"<user>Find tea.<assistant>{written}<tool>nothing<user>Try again."


def test_arguments_that_are_cut_off_stay_text_where_the_template_takes_text() -> None:
    calls = "{% for c in m.tool_calls or [] %}{{ c.function.arguments }}{% endfor %}"
    source = PLAIN.replace("{{ m.content }}", "{{ m.content }}" + calls)
    assert '{"zone": "America/Li<tool>' in ChatTemplate(source).prompt(called('{"zone": "America/Li'))


def test_an_empty_list_of_calls_is_none() -> None:
    said = [user("a"), assistant("Heliotrope.", tool_calls=[]), user("b")]
    assert ChatTemplate(OBJECT_CALLS).prompt(said) == "<user>a<assistant>Heliotrope.<user>b"


# --- thinking ---------------------------------------------------------------------------------------------------------


def test_effort_none_turns_the_switch_of_the_template_off() -> None:
    template = ChatTemplate(SWITCH)
    assert template.shape.thinking.of_effort("none", {}) == {"enable_thinking": False}
    assert template.shape.thinking.of_effort("high", {}) == {"enable_thinking": True}
    assert template.shape.thinking.of_effort("none", {"enable_thinking": True}) == {}


def test_effort_goes_to_a_template_that_reads_it_and_is_ignored_by_one_that_does_not() -> None:
    assert ChatTemplate(EFFORT).shape.thinking.of_effort("none", {}) == {"reasoning_effort": "none"}
    assert ChatTemplate(EFFORT).shape.thinking.of_effort("low", {}) == {"reasoning_effort": "low"}
    assert ChatTemplate(PLAIN).shape.thinking.of_effort("none", {}) is None


# --- published templates ----------------------------------------------------------------------------------------------


def published(name: str) -> ChatTemplate:
    path = SHARED / "templates" / f"{name}.jinja"
    return ChatTemplate(path.read_text(), bos_token="<s>", eos_token="</s>")


def rendered(template: ChatTemplate, messages: list[dict[str, Any]]) -> str:
    """Render without tools, or with an empty list of them under a template that is only for tools."""
    try:
        return template.prompt(messages)
    except TemplateError as error:
        if "NoneType" not in error.message:
            raise
        return template.prompt(messages, tools=[])


ALL = sorted(path.stem for path in (SHARED / "templates").glob("*.jinja"))
needs_templates = pytest.mark.skipif(not ALL, reason="the published templates (shared/templates) are not here")


@needs_templates
@pytest.mark.parametrize("name", ALL)
def test_no_published_template_refuses_a_cut_off_call(name: str) -> None:
    template = published(name)
    try:
        whole = rendered(template, called('{"zone": "America/Lima"}'))
    except TemplateError:  # it takes no such conversation: a user after a tool's result, or no tools at all
        with pytest.raises(TemplateError):
            rendered(template, called('{"zone": "America/Li'))
        return
    cut = rendered(template, called('{"zone": "America/Li'))
    assert ("America/Lima" in whole) == ("America/Li" in cut)


@needs_templates
@pytest.mark.parametrize("name", ALL)
def test_an_empty_list_of_calls_changes_nothing_under_a_published_template(name: str) -> None:
    template = published(name)
    without = rendered(template, [user("a"), assistant("Heliotrope."), user("b")])
    assert rendered(template, [user("a"), assistant("Heliotrope.", tool_calls=[]), user("b")]) == without


@needs_templates
@pytest.mark.parametrize("name", ALL)
def test_no_published_template_loses_a_system_message(name: str) -> None:
    template = published(name)
    for head in ([system("NEEDLE1", "developer"), system("NEEDLE2")], [system("NEEDLE1"), system("NEEDLE2")]):
        prompt = rendered(template, [*head, user("Hi")])
        assert "NEEDLE1" in prompt
        assert "NEEDLE2" in prompt
    late = rendered(template, [system("Cook."), user("a"), assistant("b"), system("NEEDLE3"), user("c")])
    assert "NEEDLE3" in late
    assert "Cook." in late


@needs_templates
@pytest.mark.parametrize(
    ("name", "switch"),
    [
        ("Qwen3.5-4B", "enable_thinking"),
        ("GLM-4.6", "enable_thinking"),
        ("deepseek-ai-DeepSeek-V3.1", "enable_thinking"),
    ],
)
def test_published_switches_are_found(name: str, switch: str) -> None:
    template = published(name)
    assert template.shape.thinking.of_effort("none", {}) == {switch: False}
    off = template.prompt([user("a")], variables={switch: False})
    on = template.prompt([user("a")], variables={switch: True})
    assert off != on


@needs_templates
def test_gpt_oss_reads_the_effort() -> None:
    template = published("openai-gpt-oss-120b")
    assert template.shape.thinking.of_effort("low", {}) == {"reasoning_effort": "low"}
