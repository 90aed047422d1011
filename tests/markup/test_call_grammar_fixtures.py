"""The grammar of calls allows the recorded calls of canitoolcall, which real models and templates wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from canitoolcall.fixtures import Fixture

from tests.markup.replay import all_fixtures, format_of, prompt_end_of, tools_of
from tests.markup.vocabulary_of_grammars import (
    CONTROL,
    GrammarVocabulary,
    after_thinking,
    published_vocabularies,
    unmatched,
)
from worker_gguf.markup.call_grammar import call_constraint
from worker_gguf.markup.parser import AnswerParser
from worker_gguf.markup.tool import Tool, ToolUse

# What the grammar does not allow, though the parser reads it.
NOT_ALLOWED = {
    "gpt-oss/harmony-string-escapes": "a character by its number, which the JSON of answers must not have",
    "gpt-oss/vllm-sequential-calls": "several calls in one answer, which this format does not have",
    "deepseek/sglang-v4-self-closing-invoke": "a call without arguments that is one closed tag",
    "kimi/k2i-vllm-noise-between-markers": "text between the beginning of the section and that of the call",
    "llama/l3-sglang-text-before-python-tag": "text before a call that counts only at the beginning",
}
WITH_CALLS = [
    fixture
    for fixture in all_fixtures()
    if fixture.expected and fixture.expected.tool_calls and not {"truncated", "malformed"} & set(fixture.tags)
]


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[GrammarVocabulary]:
    made = GrammarVocabulary()
    yield made
    made.close()


@pytest.fixture(scope="module", params=published_vocabularies(), ids=lambda path: path.stem)
def published(request: pytest.FixtureRequest) -> Iterator[GrammarVocabulary]:
    made = GrammarVocabulary(request.param)
    yield made
    made.close()


def answer_of(fixture: Fixture) -> str:
    parser = AnswerParser(format_of(fixture), prompt_end_of(fixture), tools_of(fixture))
    return after_thinking(format_of(fixture), parser, fixture.raw_output)


def has_marks_as_text(fixture: Fixture) -> bool:
    """Whether a mark is a part of the arguments or the reasoning, where it is no control token."""
    assert fixture.expected is not None
    texts = [json.dumps(call.arguments, ensure_ascii=False) for call in fixture.expected.tool_calls]
    return any(mark in text for mark in CONTROL for text in (*texts, fixture.expected.reasoning_content or ""))


def check(vocabulary: GrammarVocabulary, fixture: Fixture, *, has_control: bool) -> None:
    assert fixture.expected is not None
    token_of = vocabulary.token_of if has_control else lambda text: None
    form, tools, answer = format_of(fixture), tuple(tools_of(fixture)), answer_of(fixture)
    free = call_constraint(form, ToolUse(tools), token_of)
    assert unmatched(vocabulary, free, answer, has_control=has_control) is None
    if not fixture.expected.content:
        forced = call_constraint(form, ToolUse(tools, is_required=True), token_of)
        assert vocabulary.accepts(forced, answer, has_control=has_control), answer


@pytest.mark.parametrize("fixture", WITH_CALLS, ids=lambda fixture: fixture.id)
def test_recorded_calls_are_allowed(vocabulary: GrammarVocabulary, fixture: Fixture) -> None:
    if fixture.id in NOT_ALLOWED:
        pytest.skip(NOT_ALLOWED[fixture.id])
    check(vocabulary, fixture, has_control=False)
    if not has_marks_as_text(fixture):
        check(vocabulary, fixture, has_control=True)


def test_recorded_calls_are_allowed_in_the_tokens_of_published_vocabularies(published: GrammarVocabulary) -> None:
    for fixture in WITH_CALLS[::9]:
        if fixture.id not in NOT_ALLOWED and not has_marks_as_text(fixture):
            check(published, fixture, has_control=True)


def test_a_call_with_another_name_is_not_allowed(vocabulary: GrammarVocabulary) -> None:
    for fixture in WITH_CALLS[::5]:
        others = tuple(Tool(f"{tool.name}_2", tool.parameters) for tool in tools_of(fixture))
        forced = call_constraint(format_of(fixture), ToolUse(others, is_required=True), vocabulary.token_of)
        assert not vocabulary.accepts(forced, answer_of(fixture))
