"""Tests of chat templates alone: their variables, their errors, and the choice of a template."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

from worker_gguf.errors import TemplateError
from worker_gguf.template.chat_template import ChatTemplate, ChatTemplates

HELLO = [{"role": "user", "content": "Hello"}]


def render(source: str, **options: Any) -> str:
    return ChatTemplate(source).render(HELLO, **options)


# What a template sees


def test_special_tokens_are_variables() -> None:
    template = ChatTemplate("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}", bos_token="<s>", pad_token="<p>")
    assert template.render(HELLO) == "<s>||<p>"


def test_request_variables_win_over_special_tokens() -> None:
    template = ChatTemplate("{{ bos_token }}{{ mood }}", bos_token="<s>")
    assert template.render(HELLO, bos_token="<b>", mood="calm") == "<b>calm"


def test_the_generation_prompt_is_added_by_default() -> None:
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


def test_a_template_may_change_lists_of_its_own() -> None:
    source = (
        "{% set ids = [] %}{% for m in messages %}{{ ids.append(m.role) or '' }}{% endfor %}{{ ids.pop(0) }}{{ ids }}"
    )
    assert render(source) == "user[]"


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


# Which template


def test_chatml_stands_in_for_a_missing_template() -> None:
    templates = ChatTemplates.compile(None)
    assert templates.is_fallback
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    assert templates.default.prompt(messages) == expected + "<|im_start|>assistant\n"
    assert templates.default.prompt(messages, add_generation_prompt=False) == expected


def test_a_models_own_template_is_no_fallback() -> None:
    templates = ChatTemplates.compile("x")
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
    templates = ChatTemplates.compile(source)
    assert templates.for_tools(None).render(HELLO) == "d"
    assert templates.for_tools([{}]).render(HELLO) == "t"


def test_a_lone_tool_template_serves_all() -> None:
    assert ChatTemplates.compile({"tool_use": "t"}).for_tools(None).render(HELLO) == "t"


def test_unknown_names_are_refused_by_name() -> None:
    with pytest.raises(TemplateError, match="named rag and none named default"):
        ChatTemplates.compile({"rag": "x"})
