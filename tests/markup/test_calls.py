"""Tests of calls in the syntax of each format. The recorded answers are in other tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.markup.reading import calls_of, parser_of, parts_of, read
from tests.markup.replay import joined
from worker_gguf.markup.call_format import CallFormat, JsonCall, TaggedValues
from worker_gguf.markup.known_formats import (
    COMMAND_R,
    DEEPSEEK_V3_2,
    FUNCTIONARY_3_1,
    FUNCTIONARY_3_2,
    GEMMA_4,
    GLM_4_7,
    HERMES,
    KIMI_K2,
    LFM2,
    LLAMA_3,
    LLAMA_4,
    MINIMAX_M2,
    MISTRAL_V11,
    NEMOTRON_NANO_2,
    QWEN3_CODER,
)


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


def test_a_call_without_a_marker_counts_only_at_the_start() -> None:
    call = '{"name": "now", "parameters": {}}'
    assert read(LLAMA_3, f"{call}; {call}\n{call}") == ("", "", [("now", {})] * 3)
    assert read(LLAMA_3, f"<|python_tag|>{call}; {call}") == ("", "", [("now", {})] * 2)
    assert read(LLAMA_3, f"So: {call}") == (f"So: {call}", "", [])
    assert read(LLAMA_3, f"So: <|python_tag|>{call}") == ("So: ", "", [("now", {})])
    assert read(LLAMA_3, ' {"city": "Oslo"}') == (' {"city": "Oslo"}', "", [])
    assert read(LLAMA_3, '{"name": "now", "city": 1}') == ('{"name": "now", "city": 1}', "", [])
    assert read(LLAMA_4, "[now(), look_up(text='a')]") == ("", "", [("now", {}), ("look_up", {"text": "a"})])
    assert read(LLAMA_4, "[1, 2] is a list") == ("[1, 2] is a list", "", [])


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


def test_the_name_may_be_the_key_of_the_arguments() -> None:
    keys = JsonCall(name_key="", arguments_key="", is_name_key=True)
    form = CallFormat(
        syntax="json_object", section_start="<calls>", section_end="</calls>", is_array=True, json_call=keys
    )
    assert calls_of(form, '<calls>[{"look_up": {"n": 1}}, {"now": {}}]</calls>') == [("look_up", {"n": 1}), ("now", {})]
    assert read(form, '<calls>[{"unknown": {"n": 1}}]</calls>')[2] == []


def test_an_id_may_stand_before_the_name() -> None:
    form = CallFormat(
        syntax="json",
        section_start="<calls>",
        call_start="<call>",
        name_start="<name>",
        id_pattern="[0-9]+",
        arguments_start="<args>",
        call_end="</call>",
    )
    text = '<calls><call>123<name>look_up<args>{"n": 1}</call><call>124<name>now<args>{}</call>'
    assert calls_of(form, text) == [("look_up", {"n": 1}), ("now", {})]


def test_values_between_tags_may_all_be_json() -> None:
    values = TaggedValues("[set ", "]", value_end="[/set]", is_json=True)
    form = CallFormat(syntax="tagged", call_start="[do ", arguments_start="]", call_end="[/do]", values=values)
    text = '[do look_up][set text]"a [/set] \\"b\\""[/set][set n]1[/set][set list]["x"][/set][/do]'
    assert calls_of(form, text) == [("look_up", {"text": 'a [/set] "b"', "n": 1, "list": ["x"]})]


def test_values_between_tags_may_have_values_in_them() -> None:
    values = TaggedValues("<", ">", value_end="</", key_close=">", is_nested=True)
    form = CallFormat(syntax="tagged", call_start="{call ", arguments_start="}", call_end="{/call}", values=values)
    text = "{call look_up}<text><b>x</b></text><list><item>1</item><item>a</item></list><n>2</n>{/call}"
    assert calls_of(form, text) == [("look_up", {"text": "<b>x</b>", "list": [1, "a"], "n": 2})]


def test_a_tag_may_close_itself() -> None:
    text = '<minimax:tool_call>\n<invoke name="now"/>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>'
    assert calls_of(MINIMAX_M2, text) == [("now", {}), ("now", {})]
