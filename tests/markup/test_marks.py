"""Marks as expressions of Lark."""

from __future__ import annotations

import pytest

from worker_gguf.errors import InvalidRequest
from worker_gguf.markup.lark import LarkGrammar, either, literal
from worker_gguf.markup.marks import Marks, Piece


def marks_with(**ids: int) -> Marks:
    tokens = {f"<|{name}|>": number for name, number in ids.items()}
    return Marks(LarkGrammar(), tokens.get)


def test_a_mark_is_divided_at_its_control_tokens() -> None:
    marks = marks_with(begin=1, sep=2)
    assert marks.pieces("<|begin|>function<|sep|>\n") == (Piece(1, False), Piece("function", False), Piece(2, False))
    assert marks.pieces("\n</a>\n<|sep|> json") == (Piece("</a>", False), Piece(2, True), Piece("json", True))
    assert marks.pieces(" \n") == ()


def test_the_longest_control_token_counts() -> None:
    marks = Marks(LarkGrammar(), {"<a>": 1, "<a><b>": 2}.get)
    assert marks.pieces("<a><b>") == (Piece(2, False),)


def test_a_mark_without_control_tokens_is_a_text() -> None:
    marks = marks_with(begin=1)
    assert marks.is_text("<tool_call>\n")
    assert not marks.is_text("<|begin|>")
    assert not marks.is_text("a<|begin|>")
    assert not marks.is_text("\n")


def test_a_long_name_in_a_mark_costs_little() -> None:
    asked: list[str] = []
    marks = Marks(LarkGrammar(), lambda text: asked.append(text))
    assert marks.pieces(f"</{'a' * 10_000}>") == (Piece(f"</{'a' * 10_000}>", False),)
    assert len(asked) < 200


def test_a_grammar_that_becomes_too_long_is_refused() -> None:
    grammar = LarkGrammar()
    for number in range(3):
        grammar.rule(str(number) * 2**20)
    with pytest.raises(InvalidRequest, match="too large") as error:
        grammar.rule("3" * 2**20)
    assert error.value.param == "tools"


def test_an_empty_mark_is_nothing() -> None:
    assert marks_with().expression("") == ""


@pytest.mark.parametrize(
    ("text", "written"), [("a", '"a"'), ('"\\\n', '"\\"\\\\\\n"'), ("\x7f", '"\\u007f"'), ("é｜", '"é｜"'), ("", "")]
)
def test_literals_are_escaped(text: str, written: str) -> None:
    assert literal(text) == written


def test_equal_bodies_have_one_name() -> None:
    grammar = LarkGrammar()
    assert grammar.rule('"a"') == grammar.rule('"a"')
    assert grammar.rule('"a"') != grammar.rule('"a"', "lazy")
    assert grammar.terminal('"a"') != grammar.rule('"a"')
    assert grammar.text("x").count('"a"') == 3


def test_one_of_the_same_is_that() -> None:
    assert either(["a", "a"]) == "a"
    assert either(["a", "b"]) == "(a | b)"
    with pytest.raises(ValueError, match="at least one"):
        either([])
