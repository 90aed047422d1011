"""What holds for any text that a model may write, in any format and in any pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from canitoolcall.fixtures import Fixture
from canitoolcall.results import ParseResult
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.markup.replay import all_fixtures, format_of, joined, prompt_end_of, tools_of
from tests.markup.written_calls import write_calls
from worker_gguf.markup import known_formats
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.markup import Markup
from worker_gguf.markup.parser import AnswerParser
from worker_gguf.markup.parts import Part
from worker_gguf.markup.tool import Tool

FORMS = {
    name: form
    for name, form in vars(known_formats).items()
    if isinstance(form, CallFormat) and not name.startswith("_")
}
TOOLS = (
    Tool("look_up", {"type": "object", "properties": {"text": {"type": "string"}, "n": {"type": ["integer", "null"]}}}),
    Tool("now", {"type": "object", "properties": {}}),
)
# A call of each syntax without its marks, in pieces, and what confuses a parser.
SNIPPETS = (
    *('{"name": "look_up", "arguments": {"text": "a"}}', '{"name": "now", "parameters": {}}', '"name": "now"'),
    *(
        "look_up",
        "now",
        "text",
        "n",
        '{"text": "a", "n": 1}',
        '{text:<|"|>a<|"|>,n:[1,{b:2}]}',
        "{}",
        '"a\\"b"',
        "null",
    ),
    *("look_up(text='a', n=1)", "[now()]", "(", ")", "[", "]", "{", "}", ":", ",", '"', "'", "\\", "=", "<", ">", "/"),
    *("functions.", "to=functions.now", " ", "\n", "\n\n", "word", "é", "🌸", "```", "</", "<|", "12", "-1.5e3"),
)


def texts_of(form: CallFormat) -> tuple[str, ...]:
    return (*Markup.of_format(form).markers, *(mark for mark in (form.call_start, form.section_start) if mark))


def answers(form: CallFormat) -> st.SearchStrategy[str]:
    return st.lists(st.one_of(st.sampled_from(SNIPPETS), st.sampled_from(texts_of(form) or SNIPPETS)), max_size=14).map(
        "".join
    )


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    """Cut a text at the places that the numbers give, each modulo its length."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


def parse(form: CallFormat, texts: Sequence[str], *, holds_calls: bool = False) -> ParseResult:
    parser = AnswerParser(form, "", TOOLS, holds_calls=holds_calls)
    parts: list[Part] = [part for text in texts for part in parser.feed(text)]
    return joined([*parts, *parser.end()])


def is_json(text: str | None) -> bool:
    try:
        json.loads(text or "")
    except json.JSONDecodeError:
        return False
    return True


def grows(before: ParseResult, after: ParseResult) -> bool:
    """Whether everything that was there before is there still, and as it was."""
    calls = zip(before.tool_calls, after.tool_calls, strict=False)
    return (
        (after.content or "").startswith(before.content or "")
        and (after.reasoning_content or "").startswith(before.reasoning_content or "")
        and len(before.tool_calls) <= len(after.tool_calls)
        and all(
            one.name == other.name and (other.arguments_raw or "").startswith(one.arguments_raw or "")
            for one, other in calls
        )
    )


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@settings(max_examples=25)
@given(data=st.data())
def test_the_pieces_of_a_text_do_not_matter(form: CallFormat, data: st.DataObject) -> None:
    text = data.draw(answers(form))
    cut = pieces(text, data.draw(st.lists(st.integers(min_value=0), max_size=6)))
    assert parse(form, cut) == parse(form, [text]) == parse(form, list(text))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@settings(max_examples=25)
@given(data=st.data())
def test_calls_that_are_held_are_those_that_are_whole(form: CallFormat, data: st.DataObject) -> None:
    text = data.draw(answers(form))
    streamed, held = parse(form, list(text)), parse(form, [text], holds_calls=True)
    assert all(isinstance(call.arguments(), dict) for call in held.tool_calls)
    assert {call.name for call in streamed.tool_calls} <= {tool.name for tool in TOOLS}
    whole = [call for call in streamed.tool_calls if is_json(call.arguments_raw)]
    if form.syntax != "pythonic":
        assert list(held.tool_calls) == whole
    assert (held.content, held.reasoning_content) == (streamed.content, streamed.reasoning_content)


@pytest.mark.parametrize(
    "fixture", [one for one in all_fixtures() if len(one.raw_output) < 500], ids=lambda fixture: fixture.id
)
def test_each_prefix_of_a_recorded_answer_gives_parts_that_only_grow(fixture: Fixture) -> None:
    parser = AnswerParser(format_of(fixture), prompt_end_of(fixture), tools_of(fixture))
    parts: list[Part] = []
    before = ParseResult()
    for character in fixture.raw_output:
        parts += parser.feed(character)
        after = joined(parts)
        assert grows(before, after)
        before = after
    assert grows(before, joined([*parts, *parser.end()]))


PARAMETERS = {
    "text": {"type": "string"},
    "n": {"type": "integer"},
    "flag": {"type": "boolean"},
    "list": {"type": "array"},
}
OFFERED = (Tool("write", {"type": "object", "properties": PARAMETERS}), Tool("a-b.c_1", {"type": "object"}))
# The formats whose calls the helper of the tests cannot write: they begin inside the prompt, or with another key.
WRITTEN = {name: form for name, form in FORMS.items() if not form.content_names and not form.json_call.is_name_key}


def calls(form: CallFormat) -> st.SearchStrategy[list[tuple[str, dict[str, object]]]]:
    texts = st.one_of(st.text(), st.sampled_from((*SNIPPETS, *texts_of(form))))
    if form.string_quote:
        # A text with the quote in it cannot be told from its end.
        texts = texts.filter(lambda text: form.string_quote not in text)
    arguments = st.fixed_dictionaries(
        {}, optional={"text": texts, "n": st.integers(), "flag": st.booleans(), "list": st.lists(texts | st.none())}
    )
    with_arguments = st.tuples(st.just("write"), arguments)
    without: st.SearchStrategy[tuple[str, dict[str, object]]] = st.just(("a-b.c_1", {}))
    call = st.one_of(with_arguments, without)
    return st.lists(call, min_size=1, max_size=3 if form.is_parallel else 1)


@pytest.mark.parametrize("form", WRITTEN.values(), ids=WRITTEN)
@settings(max_examples=25)
@given(data=st.data())
def test_no_call_is_lost_wherever_it_is_cut(form: CallFormat, data: st.DataObject) -> None:
    wanted = data.draw(calls(form))
    cut = pieces(write_calls(form, wanted), data.draw(st.lists(st.integers(min_value=0), max_size=20)))
    parser = AnswerParser(form, "", OFFERED)
    result = joined([*(part for text in cut for part in parser.feed(text)), *parser.end()])
    assert [(call.name, call.arguments()) for call in result.tool_calls] == wanted
    assert result.content is None


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@settings(max_examples=25)
@given(data=st.data())
def test_without_splitting_no_text_is_reasoning(form: CallFormat, data: st.DataObject) -> None:
    text = data.draw(answers(form))
    parser = AnswerParser(form, "", TOOLS, splits_reasoning=False)
    result = joined([*parser.feed(text), *parser.end()])
    assert result.reasoning_content is None


@given(st.text())
def test_a_text_without_markup_is_content_as_it_is(text: str) -> None:
    assert parse(CallFormat(), list(text)).content == (text or None)
