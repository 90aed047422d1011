"""The grammar of calls allows what a model writes that was trained on its template, and only what parses to calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from tests.markup.test_round_trip import ANSWERS, SOURCES, TOOLS, case, model_of, parsed, source_of
from tests.markup.vocabulary_of_grammars import GrammarVocabulary, after_thinking, unmatched
from worker_gguf.markup.tool import ToolUse

SCHEMAS = {tool.name: tool.parameters for tool in TOOLS}


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[GrammarVocabulary]:
    made = GrammarVocabulary()
    yield made
    made.close()


@pytest.mark.parametrize("name", [name for name, answer in ANSWERS.items() if answer.calls])
@pytest.mark.parametrize("key", SOURCES)
def test_calls_as_the_template_writes_them_are_allowed(
    vocabulary: GrammarVocabulary, key: Path | str, name: str
) -> None:
    model, shown, prompt, text = case(source_of(key), name)
    answer = after_thinking(model.markup.format, model.markup.parser(prompt, TOOLS), text)
    for has_control in (False, True):
        token_of = vocabulary.token_of if has_control else lambda _: None
        free = model.markup.call_constraint(ToolUse(TOOLS), token_of)
        assert unmatched(vocabulary, free, answer, has_control=has_control) is None
        if not shown.content:
            forced = model.markup.call_constraint(ToolUse(TOOLS, is_required=True), token_of)
            assert vocabulary.accepts(forced, answer, has_control=has_control), answer


@pytest.mark.parametrize("key", SOURCES)
def test_whatever_is_drawn_is_calls_with_valid_arguments(vocabulary: GrammarVocabulary, key: Path | str) -> None:
    model = model_of(source_of(key))
    if model.markup.format.syntax is None:
        pytest.skip("the template has no format of calls")
    constraint = model.markup.call_constraint(ToolUse(TOOLS, is_required=True), vocabulary.token_of)
    matcher = vocabulary.matcher(constraint)
    form = model.markup.format
    prompt = "<|start|>assistant" if form.channels else form.reasoning_start + "".join(form.reasoning_ends[:1])
    n_complete = 0
    for seed in range(12):
        matcher.reset()
        answer = vocabulary.random_answer(matcher, seed, form)
        if answer is not None:
            n_complete += 1
            calls = parsed(model, prompt, [answer]).calls
            assert calls, answer
            for name, arguments in calls:
                jsonschema.validate(arguments, SCHEMAS[name])
    assert n_complete
