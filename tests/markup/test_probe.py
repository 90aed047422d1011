"""Tests of the formats that the probe finds, on published templates and on small ones with one quirk each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.markup.published_formats import WRITTEN
from tests.markup.specimen import specimen
from tests.markup.unseen_templates import UNSEEN
from tests.shared_case import SHARED
from worker_gguf.errors import TemplateError
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.conversations import has_needle
from worker_gguf.markup.families import FAMILIES
from worker_gguf.markup.probe import derived_format, probe_format, with_think_tags
from worker_gguf.template.chat_template import ChatTemplate

PUBLISHED = sorted((SHARED / "templates").glob("*.jinja"))
# Templates that render no call.
WITHOUT_CALLS = ("LFM2-8B-A1B", "google-gemma-2-2b-it", "ibm-granite-granite-3.3-2B-Instruct")
WITHOUT_TOOLS = ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek-ai-DeepSeek-V3.1", "llama-cpp-deepseek-r1")
WITH_ONE_CALL = (
    *("GigaChat3-10B-A1.8B", "GigaChat3.1-10B-A1.8B", "meta-llama-Llama-3.2-3B-Instruct"),
    *("meta-llama-Llama-3.3-70B-Instruct", "openai-gpt-oss-120b"),
)
HERMES = 'C<tool_call>{"name": "f", "arguments": {"a": "x", "b": 1}}</tool_call>'


def derived(source: str) -> CallFormat:
    return derived_format(source, ChatTemplate(source, bos_token="<BOS>", eos_token="<EOS>")._render)


def published(name: str) -> CallFormat:
    path: Path = SHARED / "templates" / f"{name}.jinja"
    if not path.exists():
        pytest.skip("the published templates (shared/templates) are not here")
    return derived(path.read_text("utf-8"))


@pytest.mark.parametrize("name", WRITTEN)
def test_the_probe_reads_off_a_published_template_what_its_model_writes(name: str) -> None:
    assert specimen(published(name)) == WRITTEN[name]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_only_a_template_without_calls_needs_a_format_that_is_stated(path: Path) -> None:
    assert published(path.stem).must_be_stated == (path.stem in WITHOUT_CALLS)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_template_that_writes_calls_but_lists_no_tools_needs_them_listed(path: Path) -> None:
    assert published(path.stem).must_list_tools == (path.stem in WITHOUT_TOOLS)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_several_calls_are_allowed_if_the_template_writes_several(path: Path) -> None:
    assert published(path.stem).is_parallel == (path.stem not in WITH_ONE_CALL)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_the_probe_takes_a_few_dozen_renderings(path: Path) -> None:
    template = ChatTemplate(path.read_text("utf-8"))
    rendered: list[object] = []

    def render(messages: Any, **options: Any) -> str:
        rendered.append(messages)
        return template._render(messages, **options)

    derived_format(template.source, render)
    assert len(rendered) <= 50


@pytest.mark.parametrize("name", UNSEEN)
def test_no_text_of_a_probe_is_left_in_a_format(name: str) -> None:
    assert not has_needle(repr(derived(UNSEEN[name])))
    assert not derived(UNSEEN[name]).must_be_stated


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_row_of_the_families_comes_before_the_probe(family: Any) -> None:
    source = " ".join(family.in_template)
    assert probe_format(source, refuse) == family.format


def refuse(*_: object, **__: object) -> str:
    raise TemplateError("refused")


def test_a_template_that_refuses_everything_gets_the_stated_format() -> None:
    assert derived_format("", refuse).must_be_stated


# A template in ChatML whose calls are those of Hermes. The tests change one thing of it.
PLAIN = """
{%- if tools %}{{ 'Tools: ' ~ tools | tojson }}{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role ~ '\\n' }}{{ message.content or '' }}
{%- for call in message.tool_calls -%}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TWO = HERMES + '<tool_call>{"name": "g", "arguments": {}}</tool_call>'


def with_check(condition: str) -> str:
    return "{%- for m in messages if " + condition + " %}{{ raise_exception('no') }}{% endfor -%}" + PLAIN


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(PLAIN, id="any"),
        pytest.param(with_check("messages[-1].tool_calls"), id="no call at the end"),
        pytest.param(with_check("m.tool_calls and 'content' not in m"), id="a call with content"),
        pytest.param(with_check("m.tool_calls and m.content is not none"), id="a call with null"),
        pytest.param(with_check("m.tool_calls and m.tool_calls[0].id | length != 9"), id="ids of nine characters"),
        pytest.param(with_check("m.tool_calls and not tools"), id="calls only with tools"),
        pytest.param(with_check("tools"), id="no tools"),
        pytest.param(
            with_check("m.tool_calls and m.tool_calls[0].function.arguments is not string").replace(
                "arguments | tojson", "arguments"
            ),
            id="arguments as text",
        ),
        pytest.param(PLAIN.replace("<|im_end|>", "{{ eos_token if message.role != 'tool' }}"), id="another end"),
        pytest.param(
            PLAIN.replace("<|im_end|>", "{{ '<|calls|>' if message.tool_calls else '<|end|>' }}"),
            id="another end after calls",
        ),
        pytest.param(PLAIN + "{% if tools %}{{ tools | tojson }}{% endif %}", id="tools at the end"),
        pytest.param(PLAIN.replace("message.content or ''", "(message.content or [{}])[0].text"), id="parts"),
        pytest.param(
            "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}" + PLAIN, id="a system message"
        ),
    ],
)
def test_the_probe_finds_a_conversation_that_a_strict_template_takes(source: str) -> None:
    form = derived(source)
    assert specimen(form) == TWO
    assert not form.only_at_start


SECTION = "<|tool_calls_section_begin|>"


def test_a_row_counts_for_a_template_that_lists_tools_but_renders_no_calls() -> None:
    form = derived(with_check("m.tool_calls") + f"{{# {SECTION} #}}")
    assert (form.section_start, form.must_be_stated, form.must_list_tools) == (SECTION, False, False)


def test_a_row_counts_for_a_template_that_reads_calls_but_renders_none() -> None:
    form = derived(with_check("m.tool_calls").replace("if tools", "if false") + f"{{# {SECTION} #}}")
    assert (form.section_start, form.must_be_stated, form.must_list_tools) == (SECTION, False, True)


def test_no_row_counts_for_a_template_that_knows_no_tools() -> None:
    form = derived("{% for m in messages %}" + SECTION + "{{ m.content }}{% endfor %}")
    assert (form.section_start, form.must_be_stated) == ("", True)


def test_an_answer_has_one_call_if_the_template_refuses_two() -> None:
    form = derived(with_check("m.tool_calls and m.tool_calls | length > 1"))
    assert (form.is_parallel, specimen(form)) == (False, HERMES)


def test_a_mark_that_ends_only_turns_with_calls_is_no_content() -> None:
    form = derived(PLAIN.replace("<|im_end|>", "{{ '<|calls|>' if message.tool_calls else '<|end|>' }}"))
    assert form.ignored == ("<|calls|>",)


def test_a_template_whose_call_cannot_be_cut_gets_the_stated_format() -> None:
    assert derived(PLAIN.replace("<tool_call>", "<tool_call id={{ call.id }}>")).must_be_stated


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("{% for m in messages %}{{ m | tojson }}{% endfor %}", id="messages as JSON"),
        pytest.param("{% for m in messages %}{{ m }}{% endfor %}", id="messages as Python"),
        pytest.param("{% for m in messages %}{{ m.content }}{{ tools | tojson }}{% endfor %}", id="only tools"),
    ],
)
def test_a_template_that_writes_calls_in_no_known_way_gets_the_stated_format(source: str) -> None:
    assert derived(source).must_be_stated


def test_a_list_of_calls_as_json_is_read_by_its_keys() -> None:
    form = derived(
        "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}"
        "{% if m.tool_calls %}[CALLS]{{ m.tool_calls | tojson }}{% endif %}</s>{% endfor %}"
    )
    assert (form.section_start, form.is_array, form.json_call.function_key) == ("[CALLS]", True, "function")
    assert (form.json_call.id_key, form.json_call.constants) == ("id", (("type", '"function"'),))


def test_a_call_without_marks_counts_only_at_the_start() -> None:
    form = derived(PLAIN.replace("<tool_call>", "").replace("</tool_call>", ""))
    assert form.only_at_start


def test_names_in_ids_are_those_of_kimi() -> None:
    form = derived(
        PLAIN.replace('{"name": "{{ call.function.name }}", "arguments": ', "{{ call.id }}<args>").replace(
            "}</tool_call>", "</tool_call>"
        )
    )
    assert specimen(form).startswith('C<tool_call>functions.f:0<args>{"a": "x", "b": 1}</tool_call>')
    assert form.id_pattern == "[0-9]+"


def reasoning_of(source: str) -> tuple[str, tuple[str, ...]]:
    form = derived(source)
    return form.reasoning_start, form.reasoning_ends


OPENED = PLAIN.replace("assistant\\n' }}", "assistant\\n<think>\\n' }}")
SWITCHED = PLAIN.replace(
    "{{ '<|im_start|>assistant\\n' }}",
    "{{ '<|im_start|>assistant\\n' }}{{ '<think>\\n\\n</think>\\n\\n' if enable_thinking is false }}",
)
SPLIT = PLAIN.replace("message.content or ''", "(message.content or '').split('</think>')[-1]")


def test_a_template_without_reasoning_has_none() -> None:
    assert reasoning_of(PLAIN) == ("", ())
    assert not derived(PLAIN).reasons


def test_marks_of_reasoning_are_those_around_it_in_a_turn() -> None:
    shown = PLAIN.replace("{{ message.content", "{{ '◁think▷' ~ message.thinking ~ '◁/think▷' }}{{ message.content")
    assert reasoning_of(shown) == ("◁think▷", ("◁/think▷",))


def test_reasoning_that_only_calls_show_is_found() -> None:
    shown = PLAIN.replace(
        "{%- for call",
        "{%- if message.tool_calls and message.thinking %}[T]{{ message.thinking }}[/T]{% endif %}{%- for call",
    )
    assert reasoning_of(shown) == ("[T]", ("[/T]",))


def test_marks_of_reasoning_are_found_in_the_prompt_that_turns_it_off() -> None:
    assert reasoning_of(SWITCHED) == ("<think>\n", ("\n</think>",))


def test_marks_of_reasoning_are_found_in_a_template_that_only_cuts_it_off() -> None:
    assert reasoning_of(SPLIT) == ("<think>\n", ("\n</think>\n\n",))


def test_think_tags_can_be_added_to_a_model_whose_template_knows_no_reasoning() -> None:
    assert with_think_tags(derived(PLAIN)).reasoning_start == "<think>\n"
    assert with_think_tags(derived(SWITCHED)) == derived(SWITCHED)
