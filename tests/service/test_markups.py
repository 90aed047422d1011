"""Tests of the markup of templates, and of the tokens of its markers."""

from __future__ import annotations

from collections.abc import Callable

from tests.service.scripted import CONTROLS, MARK, Letters, ScriptedMarkup
from worker_gguf.service.markups import Markups, TemplateMarkup
from worker_gguf.template.chat_template import ChatTemplate

SOURCE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def test_a_template_is_examined_once() -> None:
    sources: list[str] = []

    def new_markup(source: str, render: Callable[..., str]) -> TemplateMarkup:
        sources.append(source)
        return ScriptedMarkup()

    markups = Markups(Letters(), new_markup)
    first, second = ChatTemplate(SOURCE), ChatTemplate(SOURCE + "!")
    assert markups.of(first) is markups.of(first)
    assert markups.of(second) is not markups.of(first)
    assert sources == [SOURCE, SOURCE + "!"]


def test_only_markers_that_are_control_tokens_must_be_shown() -> None:
    assert Markups(Letters(), ScriptedMarkup()).of(ChatTemplate(SOURCE)).shown == {MARK}


def test_texts_are_known_by_their_tokens() -> None:
    markups = Markups(Letters(), ScriptedMarkup())
    assert markups.control_token("[THINK]") == markups.token("[THINK]") == CONTROLS["[THINK]"]
    assert (markups.control_token("!"), markups.token("!")) == (None, 10 + ord("!"))
    assert markups.token("!!") is None
