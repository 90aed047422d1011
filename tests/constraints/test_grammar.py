"""Tests of grammars for llguidance. Texts are matched byte by byte, without a model's vocabulary."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher

from tools.docs.schema_table import ByteMatcher
from worker_gguf.constraints.grammar import compiled_text, reason, unusable
from worker_gguf.engine.request import Constraint, GrammarKind
from worker_gguf.errors import InvalidRequest

SECRET = "swordfish"


def check(constraint: Constraint) -> None:
    """Raise InvalidRequest if llguidance cannot use a constraint, as far as shows without tokens."""
    if message := LLMatcher.validate_grammar(compiled_text(constraint)):
        raise unusable(constraint, message)


def matcher(kind: GrammarKind, grammar: str) -> ByteMatcher:
    return ByteMatcher(Constraint(kind, grammar))


def schema(value: Any) -> ByteMatcher:
    return matcher("json_schema", json.dumps(value))


def refusal(kind: GrammarKind, grammar: str) -> str:
    with pytest.raises(InvalidRequest) as refused:
        check(Constraint(kind, grammar))
    assert SECRET not in refused.value.message
    return refused.value.message


def test_json_is_written_in_one_way() -> None:
    held = schema({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}})
    assert held.matches('{"a": [1, 2]}')
    assert held.matches('{"b": "ä\\n"}')
    for other in '{"a":[1,2]}', '{"a": [1,2]}', '{ "a": [1, 2]}', '{"a": [1, 2]}\n', '{"b": "\\u00e4"}':
        assert not held.matches(other)


def test_a_key_cannot_be_written_in_a_way_that_escapes_its_schema() -> None:
    held = schema(
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    )
    assert held.matches('{"a": 1, "b": "x"}')
    assert not held.matches('{"a": "x"}')
    assert not held.matches('{"\\u0061": "x"}')


@pytest.mark.parametrize("option", ["whitespace_flexible", "lenient", "json_allow_general_unicode_escapes"])
def test_a_schema_cannot_change_the_form(option: str) -> None:
    held = schema({"type": "object", "required": ["a"], "x-guidance": {option: True, "item_separator": ";"}})
    assert held.matches('{"a": 1, "b": 2}')
    assert not held.matches('{"a":1;"b":2}')


def test_a_lenient_schema_leaves_out_what_is_not_supported() -> None:
    text = json.dumps({"type": "string", "not": {"const": "x"}})
    assert "no value" not in refusal("json_schema", text)
    assert ByteMatcher(Constraint("json_schema", text, is_lenient=True)).matches('"x"')


def test_choices_may_begin_alike() -> None:
    held = matcher("choice", json.dumps(["a", "ab", "abc d", 'q"\\\n', "é😀"]))
    for text in "a", "ab", "abc d", 'q"\\\n', "é😀":
        assert held.matches(text)
    for text in "", "abc", "b", "a ", "aab":
        assert not held.matches(text)


def test_a_regular_expression_matches_the_whole_text() -> None:
    held = matcher("regex", r"[a-z]+(/\d{2})?")
    assert held.matches("abc/12")
    assert not held.matches("abc/1")
    assert not held.matches("Xabc")


def test_lark_is_passed_on() -> None:
    assert compiled_text(Constraint("lark", 'start: "a"')) == 'start: "a"'
    held = matcher("lark", 'start: list\nlist: "[" (list ("," list)*)? "]"')
    assert held.matches("[[],[[]]]")
    assert not held.matches("[[],]")


@pytest.mark.parametrize(
    ("kind", "grammar", "part"),
    [
        ("json_schema", '{"type": "string", "minLength": 5, "maxLength": 3}', "no value matches"),
        ("json_schema", '{"enum": [1], "type": "string"}', "no value matches"),
        ("json_schema", '{"type": "swordfish"}', "does not accept"),
        ("json_schema", '{"pattern": "swordfish("}', "regular expression that is not valid: unclosed group"),
        ("json_schema", '{"patternProperties": {"swordfish": {}, "sword": {}}}', "patternProperties"),
        ("json_schema", "[1]", "object schema"),
        ("json_schema", "swordfish", "not well-formed"),
        ("regex", "swordfish(", "it is not valid: unclosed group"),
        ("regex", r"swordfish[z-a]", "it is not valid: invalid character class range, the start must be <= the end"),
        ("regex", "(swordfish\nerror: swordfish", "it is not valid: unclosed group"),
        ("regex", "swordfish(?=x)", "looks ahead"),
        ("regex", r"(swordfish)\1", "refers back"),
        ("lark", "swordfish", "not well-formed"),
        ("lark", "", "empty"),
        ("lark", 'swordfish: "a"', "no rule named start"),
        ("lark", "start: swordfish", "not defined (line 1)"),
        ("lark", 'start: A\nA: A "swordfish"', "refers to itself"),
        ("lark", "start: " + "(" * 100 + '"a"' + ")" * 100, "nested too deeply"),
    ],
)
def test_a_fault_is_explained_without_the_grammar(kind: GrammarKind, grammar: str, part: str) -> None:
    message = refusal(kind, grammar)
    assert part in message
    assert len(message) < 250


def test_the_only_place_of_a_keyword_is_named() -> None:
    two: dict[str, Any] = {"patternProperties": {"a": {}, "b": {}}}
    one = json.dumps({"properties": {"x/y": {"items": two}}})
    assert "('patternProperties' at #/properties/x~1y/items)" in refusal("json_schema", one)
    both = json.dumps({"properties": {"x": two, "y": two}})
    assert "#" not in refusal("json_schema", both)


def test_a_reason_never_quotes() -> None:
    assert SECRET not in reason(f'at 3(8): something new about "{SECRET}"\n 3 | {SECRET}')
    assert reason("") == "llguidance does not accept it"


def test_a_left_recursive_grammar_works() -> None:
    held = matcher("lark", 'start: start "a" | "b"')
    assert held.matches("baa")
    assert not held.matches("ab")


@pytest.mark.parametrize("grammar", ['start: start "a"', "start: a\na: b\nb: a", "start: /[^\\s\\S]/"])
def test_a_grammar_that_no_text_matches_has_no_first_byte(grammar: str) -> None:
    assert not matcher("lark", grammar).starts()


def test_only_a_grammar_of_either_kind_is_told_how_gbnf_is_recognised() -> None:
    refused = {}
    for param in ("grammar", "lark"):
        refused[param] = unusable(Constraint("lark", "", param=param), "unexpected end").message
    assert refused["grammar"].endswith("read as Lark: rules of GBNF have ::=.")
    assert refused["lark"].endswith("read as Lark.")


def test_a_fault_in_the_grammar_of_calls_is_one_of_a_tools_schema() -> None:
    message = unusable(Constraint("lark", "", param="tools"), "at 15(3): unsatisfiable schema").message
    assert message.startswith("The schema of a tool's parameters cannot be used: ")
    assert "line" not in message
