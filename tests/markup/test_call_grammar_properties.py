"""What holds for the grammar of calls with any tools, in the format of every family."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from canitoolcall.results import ParseResult
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.markup.replay import joined
from tests.markup.tool_schemas import tools_with_arguments
from tests.markup.vocabulary_of_grammars import GrammarVocabulary, may_end_early
from tests.markup.written_calls import write_calls
from worker_gguf.markup import known_formats
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.call_grammar import call_constraint
from worker_gguf.markup.parser import AnswerParser
from worker_gguf.markup.tool import Tool, ToolUse

FORMS = {
    name: form
    for name, form in vars(known_formats).items()
    if isinstance(form, CallFormat) and not name.startswith("_")
}
Offered = list[tuple[str, dict[str, Any], dict[str, Any]]]


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[GrammarVocabulary]:
    made = GrammarVocabulary()
    yield made
    made.close()


def has_bounded_option(schema: object) -> bool:
    """Return whether a bounded text is one of several options."""
    if isinstance(schema, list):
        return any(map(has_bounded_option, schema))
    if not isinstance(schema, dict):
        return False
    options = schema.get("anyOf", ())
    return any("maxLength" in option for option in options) or any(map(has_bounded_option, schema.values()))


def parsed(form: CallFormat, answer: str, tools: tuple[Tool, ...]) -> ParseResult:
    # Where content has a name as calls have, the prompt begins the first message.
    begun = form.call_start if form.content_names and form.syntax == "json" else ""
    parser = AnswerParser(form, "<|start|>assistant" if form.channels else begun, tools)
    return joined([*parser.feed(answer), *parser.end()])


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=25)
@given(offered=tools_with_arguments(), has_control=st.booleans())
def test_arguments_that_match_are_allowed_and_parsed_back(
    vocabulary: GrammarVocabulary, name: str, offered: Offered, has_control: bool
) -> None:
    form = FORMS[name]
    # Between marks, a bounded text may hide the other values beside it: there the grammar is narrower than the schema.
    assume(form.values is None or not any(has_bounded_option(schema) for _, schema, _ in offered))
    tools = tuple(Tool(tool, schema) for tool, schema, _ in offered)
    calls = [(tool, arguments) for tool, _, arguments in offered][: None if form.is_parallel else 1]
    answer = write_calls(form, calls)
    token_of = vocabulary.token_of if has_control else lambda text: None
    forced = call_constraint(form, ToolUse(tools, is_required=True), token_of)
    assert vocabulary.accepts(forced, answer, has_control=has_control), answer
    found = parsed(form, answer, tools).tool_calls
    assert [(call.name, json.loads(call.arguments_raw or "")) for call in found] == calls


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=20)
@given(
    offered=tools_with_arguments(),
    seed=st.integers(0, 2**32),
    has_control=st.booleans(),
    is_required=st.booleans(),
    is_parallel=st.booleans(),
)
def test_whatever_is_drawn_is_calls_with_valid_arguments(
    vocabulary: GrammarVocabulary,
    name: str,
    offered: Offered,
    seed: int,
    has_control: bool,
    is_required: bool,
    is_parallel: bool,
) -> None:
    form = FORMS[name]
    tools = tuple(Tool(tool, schema) for tool, schema, _ in offered)
    use = ToolUse(tools, is_required=is_required or bool(form.content_names), is_parallel=is_parallel)
    constraint = call_constraint(form, use, vocabulary.token_of if has_control else lambda text: None)
    drawn = vocabulary.random_answer(vocabulary.matcher(constraint), seed, form)
    if drawn is None:
        return
    answer = (constraint.triggers[0] if constraint.triggers else "") + drawn
    calls = parsed(form, answer, tools).tool_calls
    arguments = [json.loads(call.arguments_raw or "") for call in calls]
    if may_end_early(form, answer, sum(map(len, arguments))):
        return
    assert calls, answer
    assert len(calls) == 1 or is_parallel
    schemas = {tool.name: tool.parameters for tool in tools}
    for call, written in zip(calls, arguments, strict=True):
        jsonschema.validate(written, schemas[call.name])
