"""Items in any order: each at most once, the required ones always, and no way leads nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import pytest

from tests.markup.vocabulary_of_grammars import GrammarVocabulary
from worker_gguf.engine.request import Constraint
from worker_gguf.markup.lark import LarkGrammar, literal
from worker_gguf.markup.named_items import Item, items_in_any_order


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[GrammarVocabulary]:
    made = GrammarVocabulary()
    yield made
    made.close()


def constraint_of(required: str, optional: str, *, has_others: bool = False) -> Constraint:
    grammar = LarkGrammar()
    items = [Item(literal(name), is_required=True) for name in required] + [Item(literal(name)) for name in optional]
    others = Item("/[x-z]/") if has_others else None
    start = items_in_any_order(grammar, items, others=others, first='"("', between='","', close='")"')
    return Constraint("lark", grammar.text(start))


def test_required_items_in_every_order(vocabulary: GrammarVocabulary) -> None:
    constraint = constraint_of("ab", "c")
    for order in permutations("abc"):
        assert vocabulary.accepts(constraint, f"({','.join(order)})")
    assert vocabulary.accepts(constraint, "(b,a)")
    for wrong in ("(a,c)", "(a,b,a)", "(a,b,c,c)", ")", "(", "(a,b", "(a,b,)"):
        assert not vocabulary.accepts(constraint, wrong)


def test_optional_items_may_all_be_missing(vocabulary: GrammarVocabulary) -> None:
    constraint = constraint_of("", "ab")
    for text in (")", "(a)", "(b,a)"):
        assert vocabulary.accepts(constraint, text)
    assert not vocabulary.accepts(constraint, "(a,a)")


def test_other_items_may_come_often(vocabulary: GrammarVocabulary) -> None:
    constraint = constraint_of("a", "", has_others=True)
    assert vocabulary.accepts(constraint, "(x,a,y,x)")
    assert not vocabulary.accepts(constraint, "(x,y)")


def test_without_items_there_is_only_the_close(vocabulary: GrammarVocabulary) -> None:
    constraint = constraint_of("", "")
    assert vocabulary.accepts(constraint, ")")
    assert not vocabulary.accepts(constraint, "()")


def test_a_separator_is_only_allowed_where_an_item_can_follow(vocabulary: GrammarVocabulary) -> None:
    matcher = vocabulary.matcher(constraint_of("a", "b"))
    assert matcher.consume_tokens(vocabulary.tokens("(a,b"))
    assert matcher.validate_tokens(vocabulary.tokens(",")) == 0
    assert matcher.validate_tokens(vocabulary.tokens(")")) == 1


def test_items_whose_end_is_told_by_what_follows(vocabulary: GrammarVocabulary) -> None:
    grammar = LarkGrammar()
    items = [
        Item(
            before_more=f'"{name}:" {grammar.rule("/(?s:.*)/ /;,/", "lazy")}',
            before_close=f'"{name}:" {grammar.rule("/(?s:.*)/ /;[)]/", "lazy")}',
            is_required=name == "a",
        )
        for name in "ab"
    ]
    start = items_in_any_order(grammar, items, others=None, first='"("', between='","', close='")"')
    constraint = Constraint("lark", grammar.text(start))
    assert vocabulary.accepts(constraint, "(b:one;,a:two; three;)")
    assert vocabulary.accepts(constraint, "(a:one;)")
    assert not vocabulary.accepts(constraint, "(b:one;)")
