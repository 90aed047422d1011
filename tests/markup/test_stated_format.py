"""Tests of the instructions for a model whose chat template has no tools."""

from __future__ import annotations

import json

from worker_gguf.markup.families import GENERIC
from worker_gguf.markup.known_formats import DEEPSEEK_V3_1, LLAMA_3
from worker_gguf.markup.parser import AnswerParser
from worker_gguf.markup.parts import ToolCall
from worker_gguf.markup.stated_format import stated_call, stated_format
from worker_gguf.markup.tool import Tool

WEATHER = Tool("weather", {"type": "object", "properties": {"city": {"type": "string"}}}, "The weather in a city.")
CLOCK = Tool("clock", {})


def test_each_tool_is_listed_in_a_line_of_its_own() -> None:
    lines = stated_format([WEATHER, CLOCK]).splitlines()
    assert json.loads(lines[1]) == {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": WEATHER.parameters,
    }
    assert json.loads(lines[2]) == {"name": "clock", "parameters": {}}


def test_the_marks_of_the_format_are_shown() -> None:
    text = stated_format([CLOCK])
    assert GENERIC.call_start in text
    assert GENERIC.call_end in text


def test_the_example_is_in_the_format_of_the_model() -> None:
    text = stated_format([CLOCK], DEEPSEEK_V3_1)
    example = '<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{"ARGUMENT": "VALUE"}<｜tool▁call▁end｜>'
    assert f"<｜tool▁calls▁begin｜>{example}<｜tool▁calls▁end｜>\n" in text
    assert f"<｜tool▁calls▁begin｜>{example}{example}<｜tool▁calls▁end｜>\n" in text


def test_no_example_has_two_calls_if_an_answer_has_one() -> None:
    assert stated_format([CLOCK], LLAMA_3).count('"NAME"') == 1


def test_a_call_of_the_conversation_is_written_as_the_model_would() -> None:
    parser = AnswerParser(GENERIC, "", (WEATHER,))
    parts = [*parser.feed(stated_call("weather", '{"city": "Oslo"}')), *parser.end()]
    calls = [part for part in parts if isinstance(part, ToolCall)]
    assert [call.name for call in calls if call.name] == ["weather"]
    assert json.loads("".join(call.arguments for call in calls)) == {"city": "Oslo"}
