"""What a client gets of the texts that models write, while they come and when they are cut."""

from __future__ import annotations

import re

from tests.markup.reading import HERMES_CALL, parser_of, parts_of, read
from tests.markup.replay import joined
from worker_gguf.markup.known_formats import DEEPSEEK_V3_1, HERMES, LFM2, LLAMA_3, MISTRAL_V11, QWEN3_CODER
from worker_gguf.markup.parser import AnswerParser
from worker_gguf.markup.parts import Content, ToolCall


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


def test_without_tools_a_call_is_content() -> None:
    result = joined(parts_of(AnswerParser(HERMES), [HERMES_CALL]))
    assert (result.content, result.tool_calls) == (HERMES_CALL, ())


def test_an_answer_that_begins_like_a_call_streams_as_soon_as_it_is_none() -> None:
    parser = parser_of(LLAMA_3)
    assert parser.feed('{"na') == []
    assert parser.feed('tion": "No') == [Content('{"nation": "No')]
