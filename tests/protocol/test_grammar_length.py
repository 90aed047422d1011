"""Tests of the limit for the length of the texts that a grammar asks for."""

from __future__ import annotations

import pytest

from worker_gguf.protocol.grammar_length import MOST_CHARACTERS
from worker_gguf.protocol.grammar_text import check_grammar, checked_regex
from worker_gguf.protocol.schemas.fault import Refused

DOUBLED = [f"R{number}: R{number - 1} R{number - 1}" for number in range(1, 31)]


@pytest.mark.parametrize(
    "regex",
    [
        "(a{2000}){2000}",
        "(a{2000}?){2000}?",
        "x|[xy](?:a{200}){200}",
        "(?i)(?P<x>\\p{L}{200,}){200}",
        "((a{40}b){40}c?){40}",
        f"(ab|cd){{{MOST_CHARACTERS // 2 + 1}}}",
        "a{" + "9" * 5000 + "}",
    ],
)
def test_a_regex_for_long_texts_only_is_refused(regex: str) -> None:
    with pytest.raises(Refused, match="smaller numbers"):
        checked_regex(regex)


@pytest.mark.parametrize(
    "regex",
    [
        "(a{0,2000}){2000}",
        "((a{2000})*){2000}",
        "(ab|c){16384}",
        f"(\\(\\x41|\\p{{Lu}}){{{MOST_CHARACTERS // 2}}}",
        "[(a{2000}){2000}]",
        "^[a-z]{1,1000}( [a-z]{1,1000}){0,2000}$",
        "a" * 16_000,
        "[" * 16_000,
        "(" * 16_000,
        "\\p{" * 5000,
    ],
)
def test_other_regexes_are_accepted(regex: str) -> None:
    assert checked_regex(regex) == regex


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= (("a"{2000}){2000})',
        'root ::= "b" | x\nx ::= "\\x41"{2} y{200}\ny ::= [a-z]{200} | "bc"{100}',
        'root ::= x | root root\nx ::= ("a"{200}){200}',
        'start: A\nA: ("a"{2000}){2000}',
        "start: A\nA: /(a{2000}){2000}/i",
        "start: A~200\nA: /b/~200..300",
        'start: [A]\nA[capture]: ("a".."b"{200}){200}',
        "\n".join(["start: R30", *DOUBLED, 'R0: "a"']),
        "\n".join(["root ::= R30", *(rule.replace(":", " ::=") for rule in DOUBLED), "R0 ::= [a]"]),
    ],
)
def test_a_grammar_for_long_texts_only_is_refused(grammar: str) -> None:
    with pytest.raises(Refused, match="smaller numbers"):
        check_grammar(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= ("a"{0,2000}){2000} # ("a"{2000}){2000}',
        'root ::= "(\\"a\\"{2000}){2000}" [("a"{2000}){2000}]',
        'root ::= x{2000}\nx ::= "a"{2000} | root |',
        'start: A // ("a"{2000}){2000}\nA: ["a"]~2000',
        'start: "x" | (%json {"const": "' + "b" * 2000 + '"}){40}',
        "start: A\n%ignore /x{20000}/\n%ignore /x{20000}/\nA: /x/",
        'start: r::0x0\nr::_: "a" r::incr(_) %if lt(_, 5)\n | ""',
        "start: (~/a{70}/ & /b{7}/){2000}",
        'start: "' + "a" * 30_000 + '"',
        "start: " + '"' * 60_000,
        "start: " + "%a " * 20_000,
    ],
)
def test_other_grammars_are_accepted(grammar: str) -> None:
    check_grammar(grammar)
