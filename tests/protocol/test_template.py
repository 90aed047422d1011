"""Chat templates on their own: what they may do, how they fail, what is done to a conversation first."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from worker_gguf.errors import TemplateError
from worker_gguf.protocol.template import ChatTemplate, ChatTemplates
from worker_gguf.protocol.template_limits import TemplateLimits

HELLO = [{"role": "user", "content": "Hello"}]
TIGHT = TemplateLimits(max_source=2_000, max_value=10_000, max_built=100_000, timeout_s=0.2)
# A busy machine must not run out of time where memory is the point.
PATIENT = replace(TIGHT, timeout_s=60.0)
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


def render(source: str, **options: Any) -> str:
    return ChatTemplate(source).render(HELLO, **options)


def prompt(source: str, *messages: dict[str, Any], **options: Any) -> str:
    return ChatTemplate(source).prompt(messages, **options)


def calling(arguments: object, **fields: object) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", **fields, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


# What a template sees


def test_special_tokens_are_variables() -> None:
    template = ChatTemplate("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}", bos_token="<s>", pad_token="<p>")
    assert template.render(HELLO) == "<s>||<p>"


def test_request_variables_win_over_special_tokens() -> None:
    template = ChatTemplate("{{ bos_token }}{{ mood }}", bos_token="<s>")
    assert template.render(HELLO, bos_token="<b>", mood="calm") == "<b>calm"


def test_generation_prompt_is_asked_for_by_default() -> None:
    assert render("{{ add_generation_prompt }}{{ tools }}{{ documents }}") == "TrueNoneNone"


def test_block_lines_leave_no_whitespace() -> None:
    assert render("  {% if true %}\n  x\n  {% endif %}\ny") == "  x\ny"


def test_loops_can_break_and_continue() -> None:
    source = (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )
    assert render(source) == "02"


def test_generation_tag_is_transparent() -> None:
    assert render("a{% generation %}{{ messages[0].content }}{% endgeneration %}b") == "aHellob"


def test_tojson_keeps_markup_and_unicode() -> None:
    assert render("{{ {'a': '<b>&ü'} | tojson }}") == '{"a": "<b>&ü"}'


def test_tojson_takes_the_options_of_json() -> None:
    source = "{{ {'b': 'ü', 'a': 1} | tojson(ensure_ascii=true, indent=1, separators=(',', ':'), sort_keys=true) }}"
    assert render(source) == '{\n "a":1,\n "b":"\\u00fc"\n}'


def test_strftime_now_reads_the_given_clock() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2024, 7, 26))  # noqa: DTZ001
    assert template.render(HELLO) == "26 Jul 2024"


def test_undefined_prints_nothing() -> None:
    assert render("[{{ nothing }}{{ messages[0].nothing }}{{ messages[7] }}]") == "[]"


def test_null_fields_are_missing() -> None:
    assert ChatTemplate("{{ 'x' in messages[0] }}").render([{"role": "user", "content": "", "x": None}]) == "False"


def test_reasoning_goes_by_every_name() -> None:
    source = "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}"
    assert ChatTemplate(source).render([{"role": "assistant", "reasoning": "hm"}]) == "hmhm"


def test_messages_are_left_alone() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi", "name": None},
        {"role": "assistant", "content": "Oh", "thinking": "x"},
    ]
    before = json.dumps(messages)
    ChatTemplate("{{ messages }}{{ messages[1].content }}").render(
        messages, add_generation_prompt=False, continue_final_message=True
    )
    assert json.dumps(messages) == before


def test_renders_the_same_from_many_threads() -> None:
    template = ChatTemplate(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.n %}{% endfor %}{{ ns.n }}"
    )
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: template.render([{"n": n}] * 50), range(200)))
    assert answers == [str(50 * n) for n in range(200)]


# How a template fails


def test_refusal_carries_the_templates_words() -> None:
    with pytest.raises(TemplateError, match=r"refused the conversation: Roles must alternate") as caught:
        render("{{ raise_exception('Roles must alternate.') }}")
    assert caught.value.param == "messages"
    assert caught.value.status == 400


def test_refusal_is_cut_short() -> None:
    with pytest.raises(TemplateError) as caught:
        render("{{ raise_exception('x' * 9000) }}")
    assert len(caught.value.message) < 700


def test_failure_names_the_line() -> None:
    with pytest.raises(TemplateError, match=r"line 3 of the template.*no attribute 'a'"):
        render("a\n\n{{ messages[0].a.b }}")


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{ 1", "{% endif %}", "{{ 'a' | nope }}", "{{ 1 is nope }}", "{% x %}"]
)
def test_bad_source_cannot_be_compiled(source: str) -> None:
    with pytest.raises(TemplateError, match=r"cannot be compiled.*line 1"):
        ChatTemplate(source)


@pytest.mark.parametrize("depth", [30, 5_000, 200_000])
def test_source_nested_too_deeply_is_refused(depth: int) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate("{% for a in [1] %}" * depth + "x" + "{% endfor %}" * depth)
    with pytest.raises(TemplateError):
        ChatTemplate("{{ " + "(" * depth * 100 + "1" + ")" * depth * 100 + " }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].nothing.deeper }}",
        "{{ nothing() }}",
        "{{ nothing + 'x' }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 // 0 }}",
        "{{ 1 | tojson(indent={}) }}",
        "{{ range(1000000) }}",
        "{{ messages | tojson(1, 2, 3, 4, 5) }}",
        "{% include 'x' %}",
        "{{ strftime_now(1) }}",
        "{{ '%d' % 'x' }}",
        "{{ {}['a']['b'] }}",
    ],
)
def test_whatever_python_raises_becomes_a_template_error(source: str) -> None:
    with pytest.raises(TemplateError, match="cannot render"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__closure__ }}",
        "{{ (''|attr('__class__')).x }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ '{a.__class__}'.format_map({'a': 1}) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{{ messages[0].pop('role') }}",
        "{{ namespace(_x=1) }}",
        "{{ dict.__class__.x }}",
        "{{ dict.mro() }}",
        "{{ self.__init__.x }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
    ],
)
def test_sandbox_holds(source: str) -> None:
    # Jinja prints a forbidden attribute as nothing and refuses any use of it.
    try:
        leaked = render(source)
    except TemplateError:
        leaked = ""
    assert leaked == ""


def test_objects_arrive_as_plain_data() -> None:
    class Handle(str):
        def leak(self) -> str:
            return "leaked"

    with pytest.raises(TemplateError):
        ChatTemplate("{{ messages[0].content.leak() }}").render([{"role": "user", "content": Handle("x")}])
    assert ChatTemplate("{{ messages[0].content }}").render([{"role": "user", "content": object()}]) == "<object>"


@pytest.mark.parametrize("messages", [[], ["Hello"], [None], [[]]])
def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate("x").render(messages)


def test_deep_messages_are_refused() -> None:
    deep: Any = "x"
    for _ in range(50_000):
        deep = [deep]
    with pytest.raises(TemplateError, match="nested too deeply"):
        ChatTemplate("{{ messages }}").render([{"role": "user", "content": deep}])
    with pytest.raises(TemplateError, match="nested too deeply"):
        ChatTemplate("{{ x }}").render(HELLO, x={"y": deep})


# What a template may spend


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in [1, 1] recursive %}{% if loop.depth < 60 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}",
        """{% set n = namespace(d=0) %}{% block a %}{% set n.d = n.d + 1 %}
        {% if n.d < 60 %}{{ self.a() }}{{ self.a() }}{% endif %}{% set n.d = n.d - 1 %}{% endblock %}""",
    ],
)
def test_endless_work_is_stopped(source: str) -> None:
    with pytest.raises(TemplateError, match=r"ran for more than 0\.2 seconds"):
        ChatTemplate(source, limits=TIGHT).render(HELLO)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 99999999999 }}",
        "{{ 99999999999 * 'x' }}",
        "{{ [1] * 99999999999 }}",
        "{{ 9 ** 99999999 }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ '%*d' % (99999999, 1) }}",
        "{{ '%99999999d' | format(1) }}",
        "{{ '{:99999999999}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=99999999) }}",
        "{{ '{a:99999999}'.format_map({'a': 1}) }}",
        "{{ 'x'.ljust(99999999999) }}",
        "{{ 'x'.zfill(99999999999) }}",
        "{{ '\t'.expandtabs(tabsize=999999999) }}",
        "{{ 'x' | center(99999999999) }}",
        "{{ 'x\nx' | indent(99999999999) }}",
        "{{ [1] | batch(99999999999, 0) | list }}",
        "{{ [1] | slice(99999999999) | list }}",
        "{{ [[1]] | tojson(indent=99999999999) }}",
        "{{ ('x' * 5000).replace('x', 'x' * 5000) }}",
        "{{ ('x' * 5000) | replace('x', 'x' * 5000) }}",
        "{{ ('x' * 5000).join(range(5000) | map('string')) }}",
        "{{ range(5000) | join('x' * 5000) }}",
        "{{ (['x' * 500] * 99) | join }}",
        "{{ (['x' * 500] * 99) | map('string') | join }}",
        "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=2) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n }}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | upper }}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ '' ~ n.x }}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ '%s' % n.x }}",
        "{% set n = namespace() %}{% for i in range(50) %}{% set n.x = {1: n.x, 2: n.x} %}{% endfor %}{{ n.x }}",
        "{% set n = namespace() %}{% for i in range(50) %}{% set n.x = [n.x] * 2 %}{% endfor %}{{ {1: n}.items() }}",
        "{% for i in range(9999) %}{{ 'xxxxxxxxxx' }}{% endfor %}",
        "{% set x %}{% for i in range(9999) %}xxxxxxxxxx{% endfor %}{% endset %}",
        "{% macro f() %}{% for i in range(9999) %}xxxxxxxxxx{% endfor %}{% endmacro %}{% set x = f() %}",
        "{{ strftime_now('%c' * 4000) }}",
        "{{ nothing ~ ('x' * 9999) ~ ('x' * 9999) }}",
    ],
)
def test_endless_memory_is_refused(source: str) -> None:
    with pytest.raises(TemplateError, match="it builds"):
        ChatTemplate(source, limits=PATIENT).render(HELLO)


def test_long_source_is_refused() -> None:
    with pytest.raises(TemplateError, match="3000 characters"):
        ChatTemplate("x" * 3000, limits=TIGHT)


def test_long_conversation_is_rendered() -> None:
    messages = [{"role": "user", "content": "x" * 1000}] * 4000
    source = "{% set n = namespace(x='') %}{% for m in messages %}{{ m.role ~ m.content | trim }}{% endfor %}"
    assert len(ChatTemplate(source).render(messages)) == 4000 * 1004


# Going on with the last message


def test_continues_the_last_message() -> None:
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    messages = [*HELLO, {"role": "assistant", "content": "Well, "}]
    template = ChatTemplate(source)
    expected = "<user>Hello<end><assistant>Well, "
    assert template.render(messages, add_generation_prompt=False, continue_final_message=True) == expected


def test_a_template_that_trims_leaves_no_space_behind() -> None:
    source = "{{ messages[0].content | trim }}<end>"
    template = ChatTemplate(source)
    messages = [{"role": "assistant", "content": "Well, "}]
    assert template.render(messages, add_generation_prompt=False, continue_final_message=True) == "Well,"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ messages[0].content }}", {"role": "assistant"}),
        ("{{ messages[0].content }}", {"role": "assistant", "content": [{"type": "image_url"}]}),
        ("{{ messages[0].content }}", {"role": "assistant", "content": 7}),
        ("{{ messages[0].role }}", {"role": "assistant", "content": "x"}),
        ("{{ messages[0].content[:2] }}", {"role": "assistant", "content": "long"}),
    ],
)
def test_says_why_it_cannot_continue(source: str, message: dict[str, Any]) -> None:
    with pytest.raises(TemplateError, match="continue_final_message is set, but"):
        ChatTemplate(source).render([message], add_generation_prompt=False, continue_final_message=True)


def test_continuing_and_a_new_message_exclude_each_other() -> None:
    with pytest.raises(TemplateError, match="exclude each other"):
        render("{{ messages[0].content }}", continue_final_message=True)


# Bringing an OpenAI conversation into the template's shape


def test_parts_are_joined_for_a_template_of_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert prompt(TEXT_ONLY, {"role": "user", "content": parts}) == "<user>a\nb"


def test_text_becomes_a_part_for_a_template_of_parts() -> None:
    assert prompt(PARTS_ONLY, {"role": "system", "content": "s"}, *HELLO) == "<system>s<user>Hello"


def test_a_template_of_both_gets_what_was_sent() -> None:
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


def test_developer_joins_the_system_message_before_it() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, *HELLO]
    assert prompt(TEXT_ONLY, *messages) == "<system>s\n\nd<user>Hello"


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


@pytest.mark.parametrize("arguments", ["{", "[1]", "7", "[" * 100_000])
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    with pytest.raises(TemplateError, match="JSON object"):
        prompt(TEXT_ONLY, *HELLO, calling(arguments, content=""))


def test_empty_arguments_are_an_empty_object() -> None:
    assert prompt(TEXT_ONLY, *HELLO, calling("", content="")) == "<user>Hello<assistant>[f {}]"


def test_content_missing_beside_a_call_is_filled_where_the_template_needs_it() -> None:
    assert prompt(TEXT_ONLY, *HELLO, calling("{}", content=None)) == "<user>Hello<assistant>[f {}]"


def test_content_is_null_beside_a_call_where_the_template_asks_for_that() -> None:
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


# Which template


def test_chatml_stands_in_for_a_missing_template() -> None:
    templates = ChatTemplates.of(None)
    assert templates.is_fallback
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    assert templates.default.prompt(messages) == expected + "<|im_start|>assistant\n"
    assert templates.default.prompt(messages, add_generation_prompt=False) == expected


def test_a_models_own_template_is_no_fallback() -> None:
    templates = ChatTemplates.of("x")
    assert not templates.is_fallback
    assert templates.for_tools([{}]) is templates.default


@pytest.mark.parametrize(
    "source",
    [
        {"default": "d", "tool_use": "t", "rag": "{% broken"},
        [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}],
    ],
)
def test_named_templates_are_chosen_by_tools(source: Any) -> None:
    templates = ChatTemplates.of(source)
    assert templates.for_tools(None).render(HELLO) == "d"
    assert templates.for_tools([{}]).render(HELLO) == "t"


def test_a_lone_tool_template_serves_all() -> None:
    assert ChatTemplates.of({"tool_use": "t"}).for_tools(None).render(HELLO) == "t"


def test_unknown_names_are_refused_by_name() -> None:
    with pytest.raises(TemplateError, match="named rag and none named default"):
        ChatTemplates.of({"rag": "x"})
