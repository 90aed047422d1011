"""Tests of the facade: what is found for a template, and where a prompt ends inside reasoning."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.markup.replay import joined
from tests.shared_case import SHARED
from worker_gguf.engine.request import Thinking
from worker_gguf.markup.known_formats import DEEPSEEK_R1, FUNCTIONARY_3_2, GPT_OSS, HERMES, MISTRAL_V11, QWEN3
from worker_gguf.markup.markup import Markup
from worker_gguf.markup.tool import Tool, ToolUse
from worker_gguf.template.chat_template import ChatTemplate

SOURCE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ message.content }}{% for call in message.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if thinks %}<think>\n{% endif %}{% endif %}"
)


def no_tokens(text: str) -> None:
    return None


def test_nothing_is_rendered_before_the_format_is_needed() -> None:
    def render(*_: object, **__: object) -> str:
        raise AssertionError

    Markup.of_template(SOURCE, render)


def test_a_template_gives_its_format_its_markers_and_its_parser() -> None:
    template = ChatTemplate(SOURCE)
    markup = Markup.of_template(template.source, template.render)
    assert markup.format.call_start == HERMES.call_start
    assert set(markup.markers) == {"<tool_call>", "</tool_call>", "<think>", "</think>"}
    prompt = template.prompt([{"role": "user", "content": "Hi"}])
    tools = [Tool("now", {})]
    answer = '<think>\nHm.\n</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    parser = markup.parser(prompt, tools)
    result = joined([*parser.feed(answer), *parser.end()])
    assert (result.content, result.reasoning_content, result.tool_calls[0].name) == (None, "Hm.", "now")
    assert markup.call_constraint(ToolUse(tuple(tools)), lambda _: None).triggers


@pytest.mark.parametrize(
    ("messages", "thinks", "is_open"),
    [
        ([("user", "Hi")], True, True),
        ([("user", "Hi")], False, False),
        ([("user", "Write <think>")], False, False),
        ([("user", "Hi"), ("assistant", "<think>\nWell, ")], False, True),
        ([("user", "Hi"), ("assistant", "<think>\nWell.\n</think>\n\nSo")], False, False),
    ],
)
def test_only_the_end_of_the_prompt_opens_reasoning(
    messages: list[tuple[str, str]], thinks: bool, is_open: bool
) -> None:
    template = ChatTemplate(SOURCE)
    markup = Markup.of_template(template.source, template.render)
    goes_on = messages[-1][0] == "assistant"
    prompt = template.prompt(
        [{"role": role, "content": content} for role, content in messages],
        add_generation_prompt=not goes_on,
        continue_final_message=goes_on,
        variables={"thinks": thinks},
    )
    assert markup.parser(prompt).is_reasoning is is_open
    assert markup.thinking(prompt) == Thinking("<think>", ("\n</think>\n\n", "</think>"), is_open=is_open)


def test_a_model_that_does_not_think_has_no_thinking() -> None:
    assert Markup.of_format(HERMES).thinking("<|im_start|>assistant\n") is None


def test_a_model_with_the_tags_in_its_vocabulary_may_think() -> None:
    template = ChatTemplate(SOURCE.replace("reasoning_content", "other").replace("think", "other"))
    assert not Markup.of_template(template.source, template.render).format.reasons
    markup = Markup.of_template(template.source, template.render, lambda text: text in ("<think>", "</think>"))
    parser = markup.parser("<|im_start|>assistant\n")
    result = joined([*parser.feed("<think>Hm.</think>Yes."), *parser.end()])
    assert (result.content, result.reasoning_content) == ("Yes.", "Hm.")


def test_the_thinking_of_channels_is_a_message() -> None:
    markup = Markup.of_format(GPT_OSS)
    start = "<|channel|>analysis<|message|>"
    assert markup.thinking("<|start|>user<|message|>Hi<|end|><|start|>assistant") == Thinking(start, ("<|end|>",))
    assert markup.thinking(f"<|start|>assistant{start}Well, ") == Thinking(start, ("<|end|>",), is_open=True)


def test_a_prompt_without_a_known_turn_is_judged_by_its_last_characters() -> None:
    markup = Markup.of_format(QWEN3)
    assert markup.parser("Hi [/INST]<think>\n").is_reasoning
    assert not markup.parser("Write <think> twice. [/INST]").is_reasoning


def test_a_prompt_may_end_inside_the_beginning_of_a_call() -> None:
    markup = Markup.of_format(FUNCTIONARY_3_2, "<|start_header_id|>assistant<|end_header_id|>\n\n>>>")
    parser = markup.parser("Hi<|start_header_id|>assistant<|end_header_id|>\n\n>>>", [Tool("now", {})])
    result = joined([*parser.feed("all\nYes.>>>now\n{}"), *parser.end()])
    assert (result.content, [call.name for call in result.tool_calls]) == ("Yes.", ["now"])


def test_markers_are_divided_into_what_may_be_tokens() -> None:
    assert Markup.of_format(MISTRAL_V11).markers == ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")
    assert {"<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"} < set(
        Markup.of_format(DEEPSEEK_R1).markers
    )
    assert {"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"} < set(
        Markup.of_format(GPT_OSS).markers
    )


@pytest.mark.parametrize("path", sorted((SHARED / "templates").glob("*.jinja")), ids=lambda path: path.stem)
def test_the_markup_of_a_published_template_knows_its_prompt(path: Path) -> None:
    template = ChatTemplate(path.read_text("utf-8"), bos_token="<s>", eos_token="</s>")
    markup = Markup.of_template(template.source, template.render)
    prompt = template.render([{"role": "user", "content": "Say <think>, [THINK] or <|START_THINKING|>."}], tools=[])
    thinking = markup.thinking(prompt)
    assert (thinking is not None) is markup.format.reasons
    if thinking is not None and thinking.is_open:
        assert thinking.start in prompt.rstrip()[-40:]


def test_the_constraint_of_the_same_tools_is_made_once() -> None:
    asked: list[str] = []

    def token_of(text: str) -> int | None:
        asked.append(text)
        return None

    def use(name: str, **options: bool) -> ToolUse:
        return ToolUse((Tool(name, {"properties": {"a": {}}}),), **options)

    markup = Markup.of_format(HERMES)
    made = markup.call_constraint(use("now"), token_of)
    assert asked
    asked.clear()
    assert markup.call_constraint(use("now"), token_of) is made
    assert not asked
    others = [markup.call_constraint(one, token_of) for one in (use("then"), use("now", is_required=True))]
    others.append(markup.call_constraint(use("now"), lambda _: None))
    assert all(other is not made for other in others)
    for number in range(32):
        markup.call_constraint(use(f"f{number}"), token_of)
    assert markup.call_constraint(use("now"), token_of) is not made


def test_a_long_constraint_is_not_kept() -> None:
    markup, use = Markup.of_format(HERMES), ToolUse((Tool("f", {"const": "a" * 2**20}),))
    assert markup.call_constraint(use, no_tokens) is not markup.call_constraint(use, no_tokens)
