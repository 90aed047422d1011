"""What a client gets of the texts that models write: facts of all formats. The recorded answers are in other tests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from tests.markup.replay import joined
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.known_formats import (
    COMMAND_R,
    COMMAND_R7B,
    DEEPSEEK_V3_1,
    DEEPSEEK_V3_2,
    FUNCTIONARY_3_1,
    FUNCTIONARY_3_2,
    GEMMA_4,
    GLM_4_7,
    GPT_OSS,
    GRANITE_3_3,
    HERMES,
    KIMI_K2,
    KIMI_K2_THINKING,
    LFM2,
    LLAMA_3,
    LLAMA_4,
    MAGISTRAL,
    MISTRAL_V3,
    MISTRAL_V11,
    NEMOTRON_NANO_2,
    QWEN3,
    QWEN3_5,
    QWEN3_CODER,
)
from worker_gguf.markup.parser import AnswerParser
from worker_gguf.markup.parts import Content, Part, Reasoning, ToolCall
from worker_gguf.markup.tool import Tool

TOOLS = (
    Tool(
        "look_up",
        {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "n": {"type": "integer"},
                "flag": {"type": ["boolean", "string"]},
                "list": {"type": "array"},
            },
        },
    ),
    Tool("now", {"type": "object"}),
    Tool("files.read", {"type": "object"}),
)
HERMES_CALL = '<tool_call>\n{"name": "look_up", "arguments": {"text": "a"}}\n</tool_call>'


def parser_of(form: CallFormat, prompt_end: str = "", **options: Any) -> AnswerParser:
    return AnswerParser(form, prompt_end, TOOLS, **options)


def parts_of(parser: AnswerParser, pieces: Iterable[str]) -> list[Part]:
    return [*(part for piece in pieces for part in parser.feed(piece)), *parser.end()]


def read(form: CallFormat, text: str, prompt_end: str = "", **options: Any) -> tuple[str, str, list[tuple[str, Any]]]:
    """Return content, reasoning and the calls with their arguments."""
    result = joined(parts_of(parser_of(form, prompt_end, **options), [text]))
    assert result == joined(parts_of(parser_of(form, prompt_end, **options), text))
    calls = [(call.name, call.arguments()) for call in result.tool_calls]
    return result.content or "", result.reasoning_content or "", calls


def calls_of(form: CallFormat, text: str) -> list[tuple[str, Any]]:
    content, _, calls = read(form, text)
    assert content == ""
    return calls


def test_a_call_comes_in_pieces_as_it_is_written() -> None:
    ids = iter(["id0000001", "id0000002"])
    parser = parser_of(HERMES, new_id=lambda: next(ids))
    assert parser.feed('Yes.\n<tool_call>\n{"name": "look') == [Content("Yes.")]
    assert parser.feed('_up", "argu') == [ToolCall(0, "id0000001", "look_up", "")]
    assert parser.feed('ments": {"text": "on') == [ToolCall(0, None, None, '{"text": "on')]
    assert parser.feed("e") == [ToolCall(0, None, None, "e")]
    assert parser.feed('"}') == [ToolCall(0, None, None, '"')]
    assert parser.feed("}\n</tool_") == [ToolCall(0, None, None, "}")]
    assert parser.feed('call><tool_call>{"name":"now","arguments":{}}') == [ToolCall(1, "id0000002", "now", "{}")]
    assert parser.end() == []


def test_an_id_has_nine_letters_and_digits_and_is_not_given_twice() -> None:
    parts = parts_of(parser_of(HERMES), [HERMES_CALL * 50])
    ids = [part.id for part in parts if isinstance(part, ToolCall) and part.id]
    assert len(set(ids)) == 50
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", id_) for id_ in ids)


def test_a_text_is_held_back_only_while_it_may_become_a_marker() -> None:
    parser = parser_of(HERMES)
    assert parser.feed("a <tool") == [Content("a")]
    assert parser.feed("box>") == [Content(" <toolbox>")]
    assert parser.feed(" <") == []
    assert parser.end() == [Content(" <")]


def test_a_string_of_tagged_values_streams_and_another_value_comes_when_it_is_closed() -> None:
    parser = parser_of(QWEN3_CODER)
    assert (
        joined(parser.feed("<tool_call>\n<function=look_up>\n<parameter=n>\n1")).tool_calls[0].arguments_raw == '{"n": '
    )
    assert parser.feed('2\n</parameter>\n<parameter=text>\nsay "hi"\n') == [
        ToolCall(0, None, None, '12, "text": "say \\"hi\\"')
    ]
    assert parser.feed("there") == [ToolCall(0, None, None, "\\nthere")]
    assert parser.feed("\n</parameter>\n</function>") == []
    assert parser.feed("\n</tool_call>") == [ToolCall(0, None, None, '"}')]


def test_half_a_call_is_no_json_and_is_not_there_if_calls_are_held() -> None:
    text = 'Yes.<tool_call>{"name": "look_up", "arguments": {"text": "a"}'
    parser = parser_of(HERMES)
    streamed = joined(parts_of(parser, [text]))
    assert streamed.tool_calls[0].arguments_raw == '{"text": "a"'
    assert parser.has_half_call
    assert read(HERMES, text, holds_calls=True) == ("Yes.", "", [])


def test_the_beginning_of_a_call_without_a_name_is_nothing() -> None:
    for text in ("<tool_call>", '<tool_call>\n{"na', '<tool_call>{"name": "no', '<tool_call>{"arguments": {"n": 1}'):
        assert read(HERMES, f"Yes.\n{text}") == ("Yes.", "", [])
    for text in ("[TOOL_CALLS]", "[TOOL_CALLS]loo", "[TOOL_CALLS]look_up[AR"):
        assert read(MISTRAL_V11, f"Yes.{text}") == ("Yes.", "", [])
    assert read(MISTRAL_V11, "[TOOL_CALLS] I do not know") == (" I do not know", "", [])
    assert read(LLAMA_3, '{"name": "no') == ('{"name": "no', "", [])


def test_what_is_no_call_is_content_without_the_marker() -> None:
    assert read(HERMES, "<tool_call>not JSON</tool_call> more") == ("not JSON more", "", [])
    unknown = '{"name": "unknown", "arguments": {}}'
    assert read(HERMES, f"<tool_call>{unknown}</tool_call>") == (unknown, "", [])
    assert read(MISTRAL_V11, "[TOOL_CALLS]unknown[ARGS]{}") == ("unknown{}", "", [])


def test_a_call_that_breaks_is_dropped_and_the_next_one_is_read() -> None:
    text = f'<tool_call>{{"name": "look_up", "arguments": {{"text": oops}}}}</tool_call>\n{HERMES_CALL}'
    assert read(HERMES, text, holds_calls=True) == ("", "", [("look_up", {"text": "a"})])
    start, sep, end = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
    calls = "".join(f"{start}{name}{sep}{arguments}{end}" for name, arguments in (("now", "{,}"), ("now", "{}")))
    section = f"<｜tool▁calls▁begin｜>{calls}<｜tool▁calls▁end｜> more"
    assert read(DEEPSEEK_V3_1, section, holds_calls=True) == (" more", "", [("now", {})])
    lists = "<|tool_call_start|>[now(a=)]<|tool_call_end|><|tool_call_start|>[now()]<|tool_call_end|>"
    assert read(LFM2, lists, holds_calls=True) == ("", "", [("now", {})])


def test_a_marker_in_a_string_is_text() -> None:
    assert calls_of(MISTRAL_V11, '[TOOL_CALLS]look_up[ARGS]{"text": "[TOOL_CALLS]now[ARGS]{}"}') == [
        ("look_up", {"text": "[TOOL_CALLS]now[ARGS]{}"})
    ]
    value = "</parameter> and <parameter=n> and </function>"
    text = f"<function=look_up>\n<parameter=text>\n{value}\n</parameter>\n</function>"
    assert calls_of(QWEN3_CODER, text) == [("look_up", {"text": value})]


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ('{"arguments": {"n": 1}, "name": "look_up"}', {"n": 1}),
        ('{"name": "look_up", "parameters": {"n": 1}}', {"n": 1}),
        ('{"name": "look_up", "arguments": "{\\"n\\": 1}"}', {"n": 1}),
        ('{"name": "look_up", "arguments": null}', {}),
        ('{"name": "look_up", "arguments": []}', {}),
        ('{"name": "look_up"}', {}),
        ('{"type": "function", "function": {"name": "look_up", "arguments": {"n": 1}}}', {"n": 1}),
        ('{"id": {"a": [1, "}"]}, "name": "look_up", "arguments": {"n": 1}, "more": 2.5}', {"n": 1}),
        ('{"name": "functions.look_up", "arguments": {}}', {}),
        ('{"name": "look_up", "arguments": {"text": "one\ntwo"}}', {"text": "one\ntwo"}),
        ('{"name": "look_up", "arguments": {"list": [1, 2,], "flag": True,}}', {"list": [1, 2], "flag": True}),
        ('{"name": "look_up", "arguments": {"text": "C:\\dir \\u00e9"}}', {"text": "C:\\dir é"}),
        ('{"name":"look_up","arguments":{"list":[{},[],"",-1e5]}}', {"list": [{}, [], "", -1e5]}),
    ],
)
def test_an_object_is_a_call_however_it_is_written(written: str, read_as: dict[str, Any]) -> None:
    assert calls_of(HERMES, f"<tool_call>{written}</tool_call>") == [("look_up", read_as)]


@pytest.mark.parametrize(
    "value", ["[1, 2", '{"a": 1]', '{"a" 1}', "{a: 1}", "tru", "01", "1.", "'a'", '{"n": }', "nan"]
)
def test_broken_arguments_make_no_call(value: str) -> None:
    text = f'<tool_call>{{"name": "look_up", "arguments": {{"n": {value}}}}}</tool_call>'
    assert read(HERMES, text, holds_calls=True)[2] == []


def test_arguments_keep_their_text() -> None:
    arguments = '{ "text":"é\\u0041",\n"list" : [ 1,2 ]}'
    parts = parts_of(parser_of(MISTRAL_V11), [f"[TOOL_CALLS]look_up[ARGS]{arguments}"])
    assert joined(parts).tool_calls[0].arguments_raw == arguments


def test_names_with_dots_and_prefixes_are_found() -> None:
    start = "<|tool_calls_section_begin|><|tool_call_begin|>"
    for name in ("files.read", "functions.files.read", " functions.files.read "):
        assert calls_of(KIMI_K2, f"{start}{name}:0<|tool_call_argument_begin|>{{}}<|tool_call_end|>") == [
            ("files.read", {})
        ]


def test_without_tools_a_call_is_content() -> None:
    result = joined(parts_of(AnswerParser(HERMES), [HERMES_CALL]))
    assert (result.content, result.tool_calls) == (HERMES_CALL, ())


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


def test_wrapped_content_loses_its_wrapper() -> None:
    text = "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>"
    assert read(COMMAND_R7B, text) == ("Yes.", "Hm.", [])
    assert read(GRANITE_3_3, "<think>Hm.</think><response>Yes.</response>") == ("Yes.", "Hm.", [])


def test_a_call_without_a_marker_counts_only_at_the_start() -> None:
    call = '{"name": "now", "parameters": {}}'
    assert read(LLAMA_3, f"{call}; {call}\n{call}") == ("", "", [("now", {})] * 3)
    assert read(LLAMA_3, f"So: {call}") == (f"So: {call}", "", [])
    assert read(LLAMA_3, f"So: <|python_tag|>{call}") == ("So: ", "", [("now", {})])
    assert read(LLAMA_3, ' {"city": "Oslo"}') == (' {"city": "Oslo"}', "", [])
    assert read(LLAMA_3, '{"name": "now", "city": 1}') == ('{"name": "now", "city": 1}', "", [])
    assert read(LLAMA_4, "[now(), look_up(text='a')]") == ("", "", [("now", {}), ("look_up", {"text": "a"})])
    assert read(LLAMA_4, "[1, 2] is a list") == ("[1, 2] is a list", "", [])


def test_an_answer_that_begins_like_a_call_streams_as_soon_as_it_is_none() -> None:
    parser = parser_of(LLAMA_3)
    assert parser.feed('{"na') == []
    assert parser.feed('tion": "No') == [Content('{"nation": "No')]


@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        ("'it\\'s'", "it's"),
        ('"a\\nb\\t\\x41\\u00e9"', "a\nb\tAé"),
        ("'C:\\\\dir \\d'", "C:\\dir \\d"),
        ("-1.5", -1.5),
        ("None", None),
        ("true", True),
        ("['a, b', {'c': (1, 2), 'd': null}]", ["a, b", {"c": [1, 2], "d": None}]),
        ("some words", "some words"),
    ],
)
def test_values_of_python_become_json(value: str, read_as: object) -> None:
    text = f"<|tool_call_start|>[look_up(text={value})]<|tool_call_end|>"
    assert calls_of(LFM2, text) == [("look_up", {"text": read_as})]


@pytest.mark.parametrize("value", ["'a", "[1", "[1)", "f(x)", ""])
def test_broken_values_of_python_make_no_call(value: str) -> None:
    assert read(LFM2, f"<|tool_call_start|>[look_up(text={value}", holds_calls=True)[2] == []


def test_a_list_of_python_that_is_cut_has_no_call() -> None:
    assert read(LLAMA_4, "[now(), look_up(text='a')", holds_calls=True)[2] == []


@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        ('<|"|>a "b" \\ <tool_call|><|"|>', 'a "b" \\ <tool_call|>'),
        ('"a"', "a"),
        ("1e5", 1e5),
        ("07", "07"),
        ("some words", "some words"),
        ('[1, [], {}, {a b:<|"|>c<|"|>,"d":true}]', [1, [], {}, {"a b": "c", "d": True}]),
    ],
)
def test_values_of_gemma_become_json(value: str, read_as: object) -> None:
    assert calls_of(GEMMA_4, f"<|tool_call>call:look_up{{text:{value}}}<tool_call|>") == [
        ("look_up", {"text": read_as})
    ]


@pytest.mark.parametrize(
    ("key", "value", "read_as"),
    [
        ("text", "12", "12"),
        ("text", '{"a": 1}', '{"a": 1}'),
        ("text", "  é\n", "  é\n"),
        ("text", "", ""),
        ("n", "12", 12),
        ("n", " 12 ", 12),
        ("n", "twelve", "twelve"),
        ("flag", "True", True),
        ("flag", "yes", "yes"),
        ("flag", "12", "12"),
        ("list", "['a', None]", ["a", None]),
        ("other", "12", 12),
        ("other", "12 or so", "12 or so"),
        ("other", '"a"', '"a"'),
    ],
)
def test_a_value_between_tags_has_the_type_of_its_schema(key: str, value: str, read_as: object) -> None:
    text = f"<tool_call>look_up<arg_key>{key}</arg_key><arg_value>{value}</arg_value></tool_call>"
    assert calls_of(GLM_4_7, text) == [("look_up", {key: read_as})]


def test_the_type_that_a_model_writes_counts_more_than_the_schema() -> None:
    def invoke(kind: str) -> str:
        value = f'<｜DSML｜parameter name="{{}}" string="{kind}">12</｜DSML｜parameter>'
        values = value.format("n") + value.format("text")
        return (
            f'<｜DSML｜function_calls><｜DSML｜invoke name="look_up">{values}</｜DSML｜invoke></｜DSML｜function_calls>'
        )

    assert calls_of(DEEPSEEK_V3_2, invoke("true")) == [("look_up", {"n": "12", "text": "12"})]
    assert calls_of(DEEPSEEK_V3_2, invoke("false")) == [("look_up", {"n": 12, "text": 12})]


def test_a_parameter_that_is_written_twice_counts_once() -> None:
    value = "<arg_key>n</arg_key><arg_value>{}</arg_value>"
    text = f"<tool_call>look_up{value.format(1)}{value.format(2)}</tool_call>"
    assert calls_of(GLM_4_7, text) == [("look_up", {"n": 1})]


def test_forgotten_ends_of_values_and_calls_are_seen() -> None:
    text = "<tool_call>\n<function=look_up>\n<parameter=text>\na\n<parameter=n>\n1\n</function>\n</tool_call>"
    assert calls_of(QWEN3_CODER, text) == [("look_up", {"text": "a", "n": 1})]
    assert calls_of(QWEN3_CODER, "<function=now>\n</function>") == [("now", {})]
    assert calls_of(GLM_4_7, "<tool_call>now<tool_call>now</tool_call>")[-1] == ("now", {})


def test_a_name_that_is_no_function_is_content() -> None:
    assert read(FUNCTIONARY_3_2, 'all\nYes.\n>>>look_up\n{"n": 1}>>>now\n{}', ">>>") == (
        "Yes.\n",
        "",
        [("look_up", {"n": 1}), ("now", {})],
    )
    assert read(FUNCTIONARY_3_2, "all\n>>> print(1)", ">>>")[0] == ">>> print(1)"
    assert read(FUNCTIONARY_3_1, '<function=look_up>{"n": 1}</function><function=now>{}</function>')[2] == [
        ("look_up", {"n": 1}),
        ("now", {}),
    ]


def test_arrays_may_have_one_call_or_none() -> None:
    assert calls_of(NEMOTRON_NANO_2, '<TOOLCALL>[{"name": "now", "arguments": {}}]</TOOLCALL>') == [("now", {})]
    assert calls_of(NEMOTRON_NANO_2, '<TOOLCALL>{"name": "now", "arguments": {}}</TOOLCALL>') == [("now", {})]
    action = 'Action:\n```json\n[{"tool_name": "now", "parameters": {}},\n{"tool_name": "now", "parameters": {}}]\n```'
    assert [name for name, _ in read(COMMAND_R, action)[2]] == ["now", "now"]


def test_channels_are_told_apart() -> None:
    start = "<|start|>assistant"
    call = "<|channel|>commentary to=functions.look_up <|constrain|>json<|message|>"
    assert read(GPT_OSS, f'{call}{{"n": 1}}<|call|>{start}{call}{{"n": 2}}', start)[2] == [
        ("look_up", {"n": 1}),
        ("look_up", {"n": 2}),
    ]
    unknown = "<|channel|>commentary to=functions.unknown<|message|>{}"
    assert read(GPT_OSS, unknown, start) == ("{}", "", [])
    assert read(GPT_OSS, "Yes.", f"{start}<|channel|>final<|message|>Well, ") == ("Yes.", "", [])


def test_calls_are_parts_of_their_own() -> None:
    parts = parts_of(parser_of(QWEN3), [f"<think>Hm.</think>Yes.{HERMES_CALL}"])
    assert [type(part) for part in parts] == [Reasoning, Content, ToolCall]
