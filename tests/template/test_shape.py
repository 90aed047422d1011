"""Tests that OpenAI conversations are brought into the shape that the template accepts."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.errors import TemplateError
from worker_gguf.template.chat_template import ChatTemplate

HELLO = [{"role": "user", "content": "Hello"}]
# Takes text, writes calls' arguments as an object, knows system and no other special role.
TEXT_ONLY = """\
{%- for m in messages -%}
<{{ m.role }}>{{ m.content + '' }}
{%- for c in m.tool_calls or [] -%}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{%- endfor -%}
{%- endfor -%}"""
NO_SYSTEM = """\
{%- for m in messages -%}
{%- if m.role == 'system' %}{{ raise_exception('no system') }}{% endif -%}
<{{ m.role }}>{{ m.content }}
{%- endfor -%}"""
PARTS_ONLY = """\
{%- for m in messages -%}
<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}
{%- endfor -%}"""
EITHER = """\
{%- for m in messages -%}
<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}({{ p.text }}){% endfor %}
{%- endif -%}
{%- endfor -%}"""


def prompt(source: str, *messages: dict[str, Any], **options: Any) -> str:
    return ChatTemplate(source).prompt(messages, **options)


def calling(arguments: object, **fields: object) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", **fields, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


def test_parts_are_joined_for_a_template_of_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert prompt(TEXT_ONLY, {"role": "user", "content": parts}) == "<user>a\nb"


def test_text_becomes_a_part_for_a_template_of_parts() -> None:
    assert prompt(PARTS_ONLY, {"role": "system", "content": "s"}, *HELLO) == "<system>s<user>Hello"


def test_a_template_that_takes_both_forms_gets_the_original_form() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert prompt(EITHER, {"role": "user", "content": parts}, *HELLO) == "<user>(a)(b)<user>Hello"


def test_a_part_that_is_no_text_is_refused_by_name() -> None:
    with pytest.raises(TemplateError, match="type 'image_url'"):
        prompt(TEXT_ONLY, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]})


def test_developer_is_system_where_the_template_does_not_know_it() -> None:
    assert prompt(TEXT_ONLY, {"role": "developer", "content": "d"}, *HELLO) == "<system>d<user>Hello"


def test_developer_stays_where_the_template_knows_it() -> None:
    source = "{% for m in messages %}{% if m.role == 'developer' %}!{% endif %}{{ m.role }} {{ m.content }}{% endfor %}"
    assert prompt(source, {"role": "developer", "content": "d"}) == "!developer d"


def test_developer_is_a_system_message_where_the_template_does_not_know_it() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, *HELLO]
    assert prompt(TEXT_ONLY, *messages) == "<system>s<system>d<user>Hello"


def test_system_goes_into_the_user_message_where_the_template_refuses_it() -> None:
    messages = [{"role": "system", "content": "s"}, *HELLO, {"role": "assistant", "content": "a"}, *HELLO]
    assert prompt(NO_SYSTEM, *messages) == "<user>s\n\nHello<assistant>a<user>Hello"
    assert prompt(NO_SYSTEM, {"role": "system", "content": "s"}) == "<user>s"


def test_arguments_become_an_object_for_a_template_that_writes_json() -> None:
    call = calling('{"city": "İzmir"}', content="")
    assert prompt(TEXT_ONLY, *HELLO, call) == '<user>Hello<assistant>[f {"city": "İzmir"}]'


def test_arguments_stay_as_sent_for_a_template_that_takes_text() -> None:
    source = """\
{%- for c in messages[1].tool_calls -%}
{%- set a = c.function.arguments %}{{ a if a is string else a | tojson }}
{%- endfor -%}"""
    assert prompt(source, *HELLO, calling('{"a":1}')) == '{"a":1}'


def test_arguments_become_text_for_a_template_that_joins_strings() -> None:
    source = "{% for c in messages[1].tool_calls %}{{ '>' + c.function.arguments }}{% endfor %}"
    assert prompt(source, *HELLO, calling({"a": "ü"})) == '>{"a": "ü"}'


def test_empty_arguments_are_an_empty_object() -> None:
    assert prompt(TEXT_ONLY, *HELLO, calling("", content="")) == "<user>Hello<assistant>[f {}]"


def test_content_missing_next_to_a_call_is_added_if_the_template_needs_it() -> None:
    assert prompt(TEXT_ONLY, *HELLO, calling("{}", content=None)) == "<user>Hello<assistant>[f {}]"


def test_content_is_null_next_to_a_call_if_the_template_needs_that() -> None:
    source = """\
{%- for m in messages if m.tool_calls and m.content is none -%}
{{ m.tool_calls[0].function.arguments | tojson }}
{%- endfor -%}"""
    assert prompt(source, *HELLO, calling('{"a": 1}', content=None)) == '{"a": 1}'


def test_calls_are_written_as_text_where_the_template_leaves_them_out() -> None:
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content + '' }}{% endfor %}"
    expected = '<user>Hello<assistant>{"name": "f", "arguments": {"a": "ü"}}'
    assert prompt(source, *HELLO, calling({"a": "ü"}, content=None)) == expected


def test_content_missing_elsewhere_is_empty() -> None:
    assert prompt(TEXT_ONLY, *HELLO, {"role": "assistant", "content": None}) == "<user>Hello<assistant>"


def test_odd_tool_calls_do_not_break_the_worker() -> None:
    odd: list[Any] = [7, "x", [None], [{}], [{"function": 3}], {"a": 1}]
    for calls in odd:
        with pytest.raises(TemplateError):
            prompt(TEXT_ONLY, {"role": "assistant", "content": "", "tool_calls": calls})


def test_request_variables_reach_the_template() -> None:
    source = "{{ enable_thinking }}{{ add_generation_prompt }}"
    assert prompt(source, *HELLO, variables={"enable_thinking": False, "add_generation_prompt": False}) == "FalseFalse"


@pytest.mark.parametrize("name", ["messages", "tools", "documents"])
def test_request_variables_cannot_replace_the_request(name: str) -> None:
    with pytest.raises(TemplateError, match=f"cannot set '{name}'"):
        prompt("x", *HELLO, variables={name: []})


@pytest.mark.parametrize("name", ["self", "context", "environment", "loop", "range", "a b", "", "class", "kwargs"])
def test_request_variables_may_have_any_other_name(name: str) -> None:
    assert prompt("{{ messages[0].content }}", *HELLO, variables={name: 1}) == "Hello"
