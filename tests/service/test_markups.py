"""Tests of the markup of templates, and of the tokens of its markers."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import pytest

from tests.service.scripted import CONTROLS, MARK, Letters, ScriptedMarkup
from worker_gguf.errors import NotReady
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.service.markups import Markups, TemplateMarkup
from worker_gguf.template.chat_template import ChatTemplate

SOURCE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def test_a_template_is_examined_once() -> None:
    sources: list[str] = []

    def new_markup(source: str, render: Callable[..., str], has_token: Callable[[str], bool]) -> TemplateMarkup:
        assert has_token("a")
        assert not has_token("ab")
        sources.append(source)
        return ScriptedMarkup()

    markups = Markups(Letters(), new_markup)
    first, second = ChatTemplate(SOURCE), ChatTemplate(SOURCE + "!")
    assert markups.of(first) is markups.of(first)
    assert markups.of(second) is not markups.of(first)
    assert sources == [SOURCE, SOURCE + "!"]


def test_who_needs_the_markup_waits_until_it_is_found() -> None:
    may_find = threading.Event()

    def new_markup(*_: object) -> TemplateMarkup:
        may_find.wait(60)
        return ScriptedMarkup()

    markups, template = Markups(Letters(), new_markup), ChatTemplate(SOURCE)
    found = markups.find(template)
    assert not found.done()
    may_find.set()
    assert markups.of(template) is found.result(60)


def test_nothing_is_examined_after_it_has_settled() -> None:
    begun, may_find = threading.Event(), threading.Event()

    def new_markup(*_: object) -> TemplateMarkup:
        begun.set()
        may_find.wait(60)
        return ScriptedMarkup()

    markups = Markups(Letters(), new_markup)
    found = markups.find(ChatTemplate(SOURCE))
    assert begun.wait(60)
    settling = threading.Thread(target=markups.settle)
    settling.start()
    may_find.set()
    settling.join(60)
    assert found.done()
    with pytest.raises(NotReady):
        markups.find(ChatTemplate(SOURCE))
    unused = Markups(Letters(), new_markup)
    unused.settle()
    with pytest.raises(NotReady):
        unused.find(ChatTemplate(SOURCE))


def test_an_examination_that_fails_is_in_the_log_and_the_next_chat_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures: list[Exception] = [ZeroDivisionError()]

    def new_markup(*_: object) -> TemplateMarkup:
        if failures:
            raise failures.pop()
        return ScriptedMarkup()

    markups, template = Markups(Letters(), new_markup), ChatTemplate(SOURCE)
    with pytest.raises(ZeroDivisionError):
        markups.of(template)
    assert "the chat template cannot be examined" in caplog.text
    assert markups.of(template).shown == {MARK}


def test_only_markers_that_are_control_tokens_must_be_shown() -> None:
    known = Markups(Letters(), ScriptedMarkup()).of(ChatTemplate(SOURCE))
    assert known.shown == {MARK}
    assert known.shown_without_tools == frozenset()
    thinks = ScriptedMarkup(CallFormat(reasoning_start="[THINK]", reasoning_ends=("[/THINK]",)))
    thinks.markers = ("[CALL]", "[THINK]", "[/THINK]")
    known = Markups(Letters(), thinks).of(ChatTemplate(SOURCE))
    assert known.shown == {MARK, CONTROLS["[THINK]"]}
    assert known.shown_without_tools == {CONTROLS["[THINK]"]}


def test_control_tokens_are_known_by_their_texts() -> None:
    markups = Markups(Letters(), ScriptedMarkup())
    assert markups.control_token("[THINK]") == CONTROLS["[THINK]"]
    assert markups.control_token("!") is markups.control_token("[THINK]!") is None


def test_a_text_is_tokenised_once() -> None:
    class Counted(Letters):
        n_calls = 0

        def tokenize(self, text: str, **options: bool) -> list[int]:
            self.n_calls += 1
            return super().tokenize(text, **options)

    counted = Counted()
    markups = Markups(counted, ScriptedMarkup())
    assert [markups.control_token(text) for text in ("[CALL]", "!") * 5] == [MARK, None] * 5
    assert counted.n_calls == 2


@pytest.mark.parametrize(
    ("text", "has_marker"),
    [
        ("<call>\n", True),
        ("<call><f=", True),
        ("[CALL]", True),
        ("[CALL]f<f=", True),
        ("", False),
        ("!", False),
        ("<f=", False),
        ("[CALL]<f=[CALL]", False),
    ],
)
def test_the_marker_with_which_a_call_begins(text: str, has_marker: bool) -> None:
    class Tags(Letters):
        def tokenize(self, text: str, **options: bool) -> list[int]:
            texts = [part for part in re.split(r"(<call>|\[CALL\])", text) if part]
            return [1 if part == "<call>" else MARK if part == "[CALL]" else 10 + ord(part[0]) for part in texts]

        def piece(self, token: int) -> bytes:
            return b"<call>" if token == 1 else super().piece(token)

    assert (Markups(Tags(), ScriptedMarkup()).leading_marker(text) is not None) is has_marker
