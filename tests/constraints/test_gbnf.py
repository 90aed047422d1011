"""Tests of grammars in GBNF."""

from __future__ import annotations

import pytest

from tools.docs.schema_table import ByteMatcher
from worker_gguf.constraints.gbnf import gbnf_to_lark
from worker_gguf.engine.request import Constraint
from worker_gguf.errors import InvalidRequest

JSON = r"""
# A grammar in the style of llama.cpp's examples.
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
# Optional whitespace:
ws ::= | " " | "\n" [ \t]{0,20}
"""


def matcher(grammar: str) -> ByteMatcher:
    return ByteMatcher(Constraint("gbnf", grammar))


def test_a_grammar_of_json() -> None:
    held = matcher(JSON)
    for text in '{"a": [1, 2.5e3, {"b": null}], "ü\\n": "x\\u00e9"}', "{}", '{"a":"b"}\n  ':
        assert held.matches(text)
    for text in "[1]", '{"a": }', '{"a": "b}', "{} {}":
        assert not held.matches(text)


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        (r'"a\n\t\r\"\\\[\]"', ['a\n\t\r"\\[]'], ["a"]),
        (r'"\x41\u00e9\u20ac\U0001F600"', ["Aé€😀"], ["A"]),
        (r"[\x41-C\u00e9]+", ["ABCé"], ["D", "e"]),
        (r"[^\n]+", ["a&/]"], ["\n"]),
        (r"[\]\[^-]+", ["][^-"], ["a"]),
        (r"[a-]+", ["a-"], ["b"]),
        (r"[&&~~|/.]+", ["&~|/."], ["a"]),
        (".", ["\n", "é"], ["", "ab"]),
        ('"a"{2,3}', ["aa", "aaa"], ["a", "aaaa"]),
        ('"a"{2}', ["aa"], ["a", "aaa"]),
        ('"a"{2,}', ["aa", "aaaaa"], ["a"]),
        ('"a"{0,1} "b"?', ["", "a", "ab", "b"], ["aa"]),
        ('"a" | ', ["a", ""], ["b"]),
        ('( | "a") "b"', ["b", "ab"], ["a"]),
        ('"abc" | [a-z]+', ["abc", "abd", "ab"], ["A"]),
        ('[a-z]+ "x"', ["abx", "xx"], ["x", "ab"]),
        ('"a" # a comment with "texts"', ["a"], ["b"]),
        ('(\n"a"\n|\n"b"\n)\n', ["a", "b"], ["ab"]),
    ],
)
def test_a_rule(rule: str, right: list[str], wrong: list[str]) -> None:
    held = matcher(f"root ::= {rule}")
    assert [text for text in right if not held.matches(text)] == []
    assert [text for text in wrong if held.matches(text)] == []


def test_names_that_differ_only_in_case_or_hyphen_are_different() -> None:
    held = matcher('root ::= foo-bar foo_bar fooBar FOO\nfoo-bar ::= "1"\nfoo_bar ::= "2"\nfooBar ::= "3"\nFOO ::= "4"')
    assert held.matches("1234")


def test_a_recursive_grammar() -> None:
    held = matcher('root ::= "(" root ")" | "x"')
    assert held.matches("((x))")
    assert not held.matches("((x)")


def test_a_left_recursive_grammar() -> None:
    held = matcher('root ::= root "+" term | term\nterm ::= [0-9]+')
    assert held.matches("1+22+3")
    assert not held.matches("1+")


ARITHMETIC = r"""
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""


def test_a_rule_does_not_take_what_must_follow_it() -> None:
    held = matcher(ARITHMETIC)
    for text in "1+2=3\n", "x_1 = (2 *3)\n", "1=1\n\n2=2\n":
        assert held.matches(text)
    assert not held.matches("1+2=3")


@pytest.mark.parametrize(
    ("grammar", "right", "wrong"),
    [
        ('root ::= "(" root ")" | word | "if" word\nword ::= [a-z]+ " "', ["if ", "iffy ", "(if )", "ifif "], ["(if)"]),
        ('root ::= "(" root ")" | "abc" | [a-z]+', ["abd", "(abc)", "ab"], ["(ab"]),
        ('root ::= "(" root ")" | a "x"\na ::= [a-z]+', ["abx", "(xx)"], ["x"]),
        ('root ::= "(" root ")" | a "aab"\na ::= "a" | "aa"', ["aaab", "aaaab"], ["aab"]),
        ('root ::= "(" root ")" | a "1"\na ::= ("b" "1")? "c"*', ["1", "b11", "b1cc1"], ["b1"]),
    ],
)
def test_parts_of_a_recursive_grammar_may_begin_alike(grammar: str, right: list[str], wrong: list[str]) -> None:
    held = matcher(grammar)
    assert [text for text in right if not held.matches(text)] == []
    assert [text for text in wrong if held.matches(text)] == []


def test_a_grammar_without_recursion_is_one_terminal() -> None:
    assert "start: T0" in gbnf_to_lark('root ::= word (" " word)*\nword ::= [a-z]+')


NESTED = '("a" ' * 20 + '"b"' + ")" * 20


def test_groups_in_a_rule_of_a_recursive_grammar_may_be_nested() -> None:
    assert "T1" in gbnf_to_lark(f'root ::= x | "(" root ")"\nx ::= {NESTED}')


@pytest.mark.parametrize(
    "rule",
    [
        " ".join([NESTED] * 49),
        "(" * 20 + '"b"' + ' "a"?)*' * 20,
        "(" * 20 + '"b"' + ' | "a"?)+' * 20,
        '"a"? ' * 5000,
        " | ".join(f'"a{number}"' for number in range(6000)),
        ". " * 10_000,
        "[" + "a" * 60_000 + "]",
        "w " * 10_000,
    ],
)
def test_a_long_grammar_is_read(rule: str) -> None:
    gbnf_to_lark(f'root ::= x | root root\nx ::= {rule}\nw ::= "a"?')
    gbnf_to_lark(f'root ::= root | {rule}\nw ::= "a"?')


@pytest.mark.parametrize("last", ['"z"', "x0 | root"])
def test_rules_may_lead_through_each_other_in_any_order(last: str) -> None:
    names = [f"x{number * 89 % 499}" for number in range(499)]
    uses = [*(f'"a"? {name}?' for name in names[1:]), last]
    lines = sorted(f"{name} ::= {used}" for name, used in zip(names, uses, strict=True))
    assert gbnf_to_lark("root ::= root | x0\n" + "\n".join(lines)).count("\n") == 501


@pytest.mark.parametrize(
    ("grammar", "part"),
    [
        ("", "no rule named root"),
        ('start ::= "a"', "no rule named root"),
        ("root ::= swordfish", "not defined: line 1"),
        ('root ::= "a"\nroot ::= "swordfish"', "a second time: line 2"),
        ('root ::= "swordfish', "unfinished text that GBNF does not allow here: line 1"),
        ('root ::= ("a"', "parenthesis without its partner"),
        ('root ::= "a")', "parenthesis without its partner"),
        ('root ::= * "a"', "repeats nothing"),
        ('root ::= "a"**', "repeats nothing"),
        ('root ::= "a"{3,2}', "fewer times"),
        ('root ::= "a"{100000}', "more than 2000 times"),
        (r'root ::= "\q"', "escape that GBNF does not have"),
        (r'root ::= "\ud800"', "stands for no character"),
        ("root ::= []", "empty class"),
        ("root ::= [z-a]", "goes backwards"),
        ('root ::= "a" <think> "b"', "names a token"),
        ('root ::= "a" !<[1000]> "b"', "names a token"),
        ("swordfish", "must begin with a rule"),
    ],
)
def test_a_fault_has_its_line(grammar: str, part: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        gbnf_to_lark(grammar)
    assert part in refused.value.message
    assert "swordfish" not in refused.value.message
