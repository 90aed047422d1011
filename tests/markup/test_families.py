"""Tests of the tables of families: what finds a row, and that a row says what the published template shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.markup.replay import joined
from tests.shared_case import SHARED
from worker_gguf.errors import TemplateError
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.families import FALLBACKS, FAMILIES, fallback_format, known_format
from worker_gguf.markup.known_formats import DEEPSEEK_V3_1, GPT_OSS, HERMES
from worker_gguf.markup.parser import AnswerParser
from worker_gguf.markup.probe import derived_format
from worker_gguf.markup.tool import Tool
from worker_gguf.template.chat_template import ChatTemplate

TOOLS = (Tool("look_up", {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}}),)
ARGUMENTS = {"city": "Oslo", "n": 3}
TEMPLATES = sorted((SHARED / "templates").glob("*.jinja"))


def test_a_template_with_all_texts_of_a_row_is_of_its_family() -> None:
    assert known_format("<|channel|> <|message|> analysis functions.") is GPT_OSS
    assert known_format("<|channel|> <|message|> analysis") is None
    assert fallback_format(r"{{ '<tool_call>\n{' }}") is HERMES


def test_the_first_row_counts_so_the_more_special_ones_stand_above() -> None:
    assert fallback_format("<｜tool▁calls▁begin｜>") is DEEPSEEK_V3_1
    for rows in (FAMILIES, FALLBACKS):
        texts = [set(row.in_template) for row in rows]
        assert not [later for n, later in enumerate(texts) for earlier in texts[:n] if earlier <= later]


def rendered_call(template: ChatTemplate) -> str:
    """Return what the template writes for a call, and what follows it in the turn. Raises TemplateError."""
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "look_up", "arguments": ARGUMENTS}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Qqq"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    return template.prompt(messages, add_generation_prompt=False).rpartition("Qqq")[2]


def calls_of(form: CallFormat, text: str) -> list[tuple[str, object]]:
    parser = AnswerParser(form, "", TOOLS)
    result = joined([*parser.feed(text), *parser.end()])
    return [(call.name, json.loads(call.arguments_raw or "")) for call in result.tool_calls]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_fallback_reads_the_call_that_the_template_writes(path: Path) -> None:
    template = ChatTemplate(path.read_text("utf-8"), bos_token="<s>", eos_token="</s>")
    form = known_format(template.source) or fallback_format(template.source)
    if form is None or form.only_at_start or form.channels or form.content_names:
        pytest.skip("no family has the texts of this template, or a call counts only where an answer begins")
    if derived_format(template.source, template.render).must_be_stated:
        pytest.skip("the template shows no call")
    try:
        text = rendered_call(template)
    except TemplateError as error:
        pytest.skip(f"the template cannot be rendered with a call: {error.message}")
    assert calls_of(form, text) == [("look_up", ARGUMENTS)]
