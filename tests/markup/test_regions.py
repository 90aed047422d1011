"""Tests of what is reasoning, what is content, and what is neither."""

from __future__ import annotations

from msgspec.structs import replace

from tests.markup.reading import HERMES_CALL, parser_of, parts_of, read
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.known_formats import (
    COMMAND_R7B,
    GEMMA_4,
    GPT_OSS,
    GRANITE_3_3,
    HERMES,
    KIMI_K2_THINKING,
    MAGISTRAL,
    MISTRAL_V3,
    QWEN3,
    QWEN3_5,
)
from worker_gguf.markup.parts import Content, Reasoning, ToolCall


def test_text_after_a_call_and_between_calls_is_content() -> None:
    assert read(HERMES, f"one{HERMES_CALL} two {HERMES_CALL}\n")[0] == "one two"
    assert read(MISTRAL_V3, '[TOOL_CALLS][{"name": "now", "arguments": {}}] Done.')[0] == " Done."


def test_white_space_of_the_template_is_no_content() -> None:
    answer = f"Good.\n</think>\n\nOne moment.\n\n{HERMES_CALL}\n"
    assert read(QWEN3, answer, "<think>\n")[:2] == ("One moment.", "Good.")
    assert read(QWEN3, f"\n{HERMES_CALL}\n{HERMES_CALL}\n")[0] == ""
    assert read(CallFormat(), "  as it is \n")[0] == "  as it is \n"


def test_the_prompt_decides_whether_reasoning_is_open() -> None:
    assert read(QWEN3, "Hm.</think>Yes.", "<think>\n") == ("Yes.", "Hm.", [])
    assert read(QWEN3, "Yes.", "<think>\n\n</think>\n\n") == ("Yes.", "", [])
    assert read(QWEN3, "more.</think>Yes.", "<think>\nSome, ") == ("Yes.", "more.", [])
    assert read(replace(QWEN3, reasoning_start=""), "Hm.</think>Yes.") == ("Yes.", "Hm.", [])


def test_is_reasoning_follows_the_text() -> None:
    parser = parser_of(QWEN3, "<think>\n")
    states = [parser.is_reasoning]
    for piece in ("Hm.</think", ">Yes. <think>"):
        parser.feed(piece)
        states.append(parser.is_reasoning)
    assert states == [True, True, False]
    assert not parser_of(QWEN3).is_reasoning
    assert parser_of(GPT_OSS, "<|start|>assistant<|channel|>analysis<|message|>").is_reasoning


def test_markers_of_reasoning_in_the_content_are_text() -> None:
    assert read(QWEN3, "Write <think> and </think>.") == ("Write <think> and </think>.", "", [])
    assert read(QWEN3, "</think>\n\nYes.", "<think></think>") == ("Yes.", "", [])
    assert read(GEMMA_4, "Yes.<|channel>thought\n<channel|>", "") == ("Yes.", "", [])


def test_reasoning_can_stay_in_the_content() -> None:
    text = "<think>\nHm.\n</think>\n\nYes.\n"
    assert read(QWEN3, text, splits_reasoning=False) == (text, "", [])
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    content = "<|channel|>analysis<|message|>Hm.<|end|>Yes."
    assert read(GPT_OSS, text, splits_reasoning=False) == (content, "", [])


def test_reasoning_in_the_content_has_the_mark_of_the_prompt() -> None:
    assert (
        read(QWEN3, "Hm.\n</think>\n\nYes.", "<think>\n", splits_reasoning=False)[0] == "<think>\nHm.\n</think>\n\nYes."
    )
    assert read(QWEN3, "Hm.</think>Yes.", "<think>\nWell, ", splits_reasoning=False)[0] == "Hm.</think>Yes."
    assert read(QWEN3, "", "<think>\n", splits_reasoning=False)[0] == ""


def test_a_mark_that_repeats_the_prompt_s_is_dropped() -> None:
    assert read(QWEN3, "<think>\n\n</think>\n\nYes.", "<think>\n") == ("Yes.", "", [])
    assert read(QWEN3, "A <think> tag.</think>Yes.", "<think>\n") == ("Yes.", "A <think> tag.", [])


def test_a_call_ends_open_reasoning_but_a_mention_of_one_does_not() -> None:
    call = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
    assert read(QWEN3_5, f"Hm.\n{call}", "<think>\n") == ("", "Hm.", [("now", {})])
    thought = f"I could write {call}, or <tool_call> alone."
    assert read(QWEN3_5, f"{thought}</think>Yes.", "<think>\n") == ("Yes.", thought, [])
    assert read(MAGISTRAL, "[THINK][TOOL_CALLS]now[ARGS]{}[/THINK]Yes.") == ("Yes.", "[TOOL_CALLS]now[ARGS]{}", [])
    section = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    )
    assert read(KIMI_K2_THINKING, f"Hm. {section}<|tool_calls_section_end|>", "<think>")[1:] == ("Hm.", [("now", {})])


def test_a_call_in_reasoning_counts_if_it_is_the_last_thing() -> None:
    call = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
    for end in ("", "\n", "\n</think>\n\n", f"\n{call}"):
        _, reasoning, calls = read(QWEN3_5, f"Hm.\n{call}{end}", "<think>\n")
        assert (reasoning, calls) == ("Hm.", [("now", {})] * (1 + end.count(call)))
    draft = f"Hm.\n{call}\n{call}\nOr not."
    assert read(QWEN3_5, f"{draft}\n</think>\n\n{call}", "<think>\n") == ("", draft, [("now", {})])
    assert read(QWEN3_5, f"Hm.\n{call}\n</think>\n\nYes.", "<think>\n") == ("Yes.", f"Hm.\n{call}", [])
    assert read(QWEN3_5, f"Hm.\n{call}\n<tool_call> it is", "<think>\n")[2] == []
    for cut in ("<tool_call>", '<tool_call>{"na'):
        assert read(QWEN3, f"Hm.\n{HERMES_CALL}\n{cut}", "<think>\n")[1:] == ("Hm.", [("look_up", {"text": "a"})])


def test_wrapped_content_loses_its_wrapper() -> None:
    text = "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>"
    assert read(COMMAND_R7B, text) == ("Yes.", "Hm.", [])
    assert read(GRANITE_3_3, "<think>Hm.</think><response>Yes.</response>") == ("Yes.", "Hm.", [])


def test_calls_are_parts_of_their_own() -> None:
    parts = parts_of(parser_of(QWEN3), [f"<think>Hm.</think>Yes.{HERMES_CALL}"])
    assert [type(part) for part in parts] == [Reasoning, Content, ToolCall]
