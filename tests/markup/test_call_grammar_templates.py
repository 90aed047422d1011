"""The grammar of calls allows what a model writes that was trained on its template, and only what parses to calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from tests.markup.test_round_trip import ANSWERS, SOURCES, TOOLS, case, model_of, parsed, source_of
from tests.markup.vocabulary_of_grammars import GrammarVocabulary, after_thinking, may_end_early, unmatched
from worker_gguf.markup.tool import ToolUse

# What the grammar does not allow, though the parser reads it.
NOT_ALLOWED = {
    "ByteDance-Seed-OSS": "lists and objects as Python writes them, between marks",
    "bare-keys": "lists and objects as JSON in a language of its own",
}
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
    if any(family in (str(key).replace(" ", "-")) for family in NOT_ALLOWED) and name.startswith("one"):
        pytest.skip("lists and objects that are not JSON, or in the language of Gemma are")
    answer = after_thinking(model.markup.format, model.markup.parser(prompt, TOOLS), text)
    end = model.markup.format.section_end if model.markup.format.section_start else ""
    if end.strip() not in answer:
        answer += end  # it is the end of generation, which the text of an answer does not have
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
    if form.content_names and form.syntax == "json":
        prompt += form.call_start
    n_complete = 0
    for seed in range(12):
        matcher.reset()
        answer = vocabulary.random_answer(matcher, seed, form)
        if answer is not None:
            calls = parsed(model, prompt, [answer]).calls
            if may_end_early(form, answer, sum(len(arguments) for _, arguments in calls)):
                continue
            n_complete += 1
            assert calls, answer
            for name, arguments in calls:
                jsonschema.validate(arguments, SCHEMAS[name])
    assert n_complete
