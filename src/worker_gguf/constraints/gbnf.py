"""Turns a grammar in llama.cpp's GBNF into llguidance's Lark: https://github.com/ggml-org/llama.cpp, grammars/README.md

llguidance has a converter of its own. It writes some escapes and classes so that they mean something else or nothing,
and lets names collide; and a rule over characters becomes slow in it unless it is a terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Set

from worker_gguf.constraints.gbnf_nodes import (
    ALL_CHARACTERS,
    Choice,
    Class,
    Literal,
    Node,
    Reference,
    Repeat,
    Sequence,
    mask_of,
)
from worker_gguf.constraints.gbnf_terminals import planned
from worker_gguf.errors import InvalidRequest

__all__ = ["gbnf_to_lark"]

# llama.cpp has the same limit.
MAX_REPEATS = 2000
# Groups of a rule. llguidance reads Lark up to 50.
MAX_DEPTH = 20

_ANY = Class("(?s:.)", ALL_CHARACTERS)
_SIGNS = {(0, None): "*", (1, None): "+", (0, 1): "?"}

_TOKENS = re.compile(
    r"""(?P<space>[\ \t\r\n]+|\#[^\n]*)
    |(?P<rule>[A-Za-z0-9_-]+)[\ \t\r\n]*::=
    |(?P<name>[A-Za-z0-9_-]+)
    |"(?P<text>(?:[^"\\\n]|\\.)*)"
    |(?P<negated>\[\^)(?P<others>(?:[^\]\\\n]|\\.)*)\]
    |\[(?P<members>(?:[^\]\\\n]|\\.)*)\]
    |\{[\ ]*(?P<least>[0-9]{1,9})[\ ]*(?P<comma>,?)[\ ]*(?P<most>[0-9]{0,9})[\ ]*\}
    |(?P<token>!?<\[?[^>\n]*\]?>)
    |(?P<sign>[.()|*+?])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r'\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([nrt"\\\[\]]))|\\|[^\\]', re.DOTALL)
_LETTERS = {"n": "\n", "r": "\r", "t": "\t"}


def gbnf_to_lark(text: str) -> str:
    """Return the grammar in Lark. Raises InvalidRequest with the line of the fault, without text of the grammar.

    A grammar without recursion becomes one terminal. Of another, those rules become terminals that are matched right by
    their longest text.
    """
    rules = _Parser(text).rules()
    if "root" not in rules:
        raise InvalidRequest("The grammar has no rule named root. Define one: root ::= ...")
    found, divided = planned(rules)
    names = {name: f"T{number}" if name in found else f"r{number}" for number, name in enumerate(rules)}
    lines = [f"start: {names['root']}"]
    lines += [
        f"{names[name]}: {_written(node, names, set() if name in found else divided)}" for name, node in rules.items()
    ]
    return "\n".join(lines) + "\n"


def _written(node: Node, names: Mapping[str, str], divided: Set[str]) -> str:
    """Write a node as Lark, with the texts in `divided` character by character."""
    match node:
        case Literal(text):
            return f"({' '.join(map(json.dumps, text))})" if text in divided else json.dumps(text)
        case Class(pattern):
            return f"/{pattern}/"
        case Reference(name):
            return names[name]
        case Repeat(inner, least, most):
            return (
                f"({_written(inner, names, divided)}){_SIGNS.get((least, most)) or f'{{{least},{_or_nothing(most)}}}'}"
            )
        case Sequence(nodes):
            return " ".join(_written(inner, names, divided) for inner in nodes) or '""'
        case Choice(nodes):
            return f"({' | '.join(_written(inner, names, divided) for inner in nodes)})"


def _or_nothing(most: int | None) -> str:
    return "" if most is None else str(most)


class _Parser:
    """Reads a grammar by recursive descent."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._places: dict[str, int] = {}

    def rules(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        while self._next < len(self._tokens):
            found, at = self._take()
            if not found["rule"]:
                raise _fault(self._text, at, "must begin with a rule: name ::= ...")
            if found["rule"] in rules:
                raise _fault(self._text, at, "defines a rule a second time")
            rules[found["rule"]] = self._choice(0)
            if self._sign() == ")":
                raise _fault(self._text, self._tokens[self._next][1], "has a parenthesis without its partner")
        for name, at in self._places.items():
            if name not in rules:
                raise _fault(self._text, at, "names a rule that is not defined")
        return rules

    def _take(self) -> tuple[re.Match[str], int]:
        self._next += 1
        return self._tokens[self._next - 1]

    def _peek(self) -> re.Match[str] | None:
        return self._tokens[self._next][0] if self._next < len(self._tokens) else None

    def _sign(self) -> str | None:
        found = self._peek()
        return found["sign"] if found else None

    def _choice(self, depth: int) -> Node:
        nodes = [self._sequence(depth)]
        while self._sign() == "|":
            self._take()
            nodes.append(self._sequence(depth))
        return nodes[0] if len(nodes) == 1 else Choice(tuple(nodes))

    def _sequence(self, depth: int) -> Node:
        """Read items up to the end of the rule, of the group or of the alternative. There may be none."""
        nodes: list[Node] = []
        while (found := self._peek()) and not found["rule"] and found["sign"] not in ("|", ")"):
            found, at = self._take()
            node = self._item(found, at, depth)
            while (sign := self._peek()) and (sign["least"] is not None or sign["sign"] in ("*", "+", "?")):
                if isinstance(node, Repeat):
                    raise _fault(self._text, at, "repeats nothing")
                node = Repeat(node, *_bounds(self._take()[0], self._text, at))
            nodes.append(node)
        return nodes[0] if len(nodes) == 1 else Sequence(tuple(nodes))

    def _item(self, found: re.Match[str], at: int, depth: int) -> Node:
        if found["token"]:
            raise _fault(self._text, at, "names a token, as in <think>, which is not supported; write its text")
        if found["name"]:
            self._places.setdefault(found["name"], at)
            return Reference(found["name"])
        if found["text"] is not None:
            return Literal("".join(_characters(found["text"], self._text, at)))
        if found["others"] is not None or found["members"] is not None:
            return _class(found, self._text, at)
        if found["sign"] == ".":
            return _ANY
        if found["sign"] != "(":
            raise _fault(self._text, at, "repeats nothing")
        if depth == MAX_DEPTH:
            raise _fault(self._text, at, f"is nested more than {MAX_DEPTH} deep")
        node = self._choice(depth + 1)
        if self._sign() != ")":
            raise _fault(self._text, at, "has a parenthesis without its partner")
        self._take()
        # A repetition behind the group repeats the group, not its last item.
        return Sequence((node,))


def _tokens(text: str) -> Iterator[tuple[re.Match[str], int]]:
    at = 0
    while at < len(text):
        found = _TOKENS.match(text, at)
        if not found:
            raise _fault(text, at, "has a character or an unfinished text that GBNF does not allow here")
        if not found["space"]:
            yield found, at
        at = found.end()


def _bounds(found: re.Match[str], text: str, at: int) -> tuple[int, int | None]:
    if found["least"] is None:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[found["sign"]]
    least = int(found["least"])
    most = int(found["most"]) if found["most"] else None if found["comma"] else least
    if max(least, most or 0) > MAX_REPEATS:
        raise _fault(text, at, f"repeats more than {MAX_REPEATS} times")
    if most is not None and most < least:
        raise _fault(text, at, "repeats at most fewer times than at least")
    return least, most


def _class(found: re.Match[str], text: str, at: int) -> Node:
    """Write a class with the numbers of its characters, so that none of them is a sign of regular expressions."""
    members = list(_characters(found["others"] or found["members"] or "", text, at, keeps_range=True))
    if not members:
        if found["negated"]:
            return _ANY
        raise _fault(text, at, "has an empty class, which no text matches")
    parts: list[str] = []
    mask = 0
    at_member = 0
    while at_member < len(members):
        first = last = _code(members[at_member])
        at_member += 1
        if at_member + 1 < len(members) and members[at_member] == "-":
            last = _code(members[at_member + 1])
            at_member += 2
        if last < first:
            raise _fault(text, at, "has a class with a range that goes backwards")
        mask |= mask_of(first, last)
        parts.append(f"\\x{{{first:X}}}" + (f"-\\x{{{last:X}}}" if last > first else ""))
    if found["negated"]:
        # Of the characters beyond ASCII, some are always left.
        return Class(f"[^{''.join(parts)}]", mask_of(0, 0x10FFFF) & ~(mask & mask_of(0, 127)))
    return Class(f"[{''.join(parts)}]", mask)


def _code(member: str) -> int:
    return ord(member[-1])


def _characters(raw: str, text: str, at: int, *, keeps_range: bool = False) -> Iterator[str]:
    """Yield the characters of a text or class. With `keeps_range`, one that was escaped comes behind a backslash."""
    for found in _ESCAPE.finditer(raw):
        digits = found[1] or found[2] or found[3]
        if digits:
            code = int(digits, 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise _fault(text, at, "has an escape that stands for no character")
            yield ("\\" if keeps_range else "") + chr(code)
        elif found[4]:
            yield ("\\" if keeps_range else "") + _LETTERS.get(found[4], found[4])
        elif found[0] == "\\":
            raise _fault(text, at, "has an escape that GBNF does not have")
        else:
            yield found[0]


def _fault(text: str, at: int, what: str) -> InvalidRequest:
    line = text.count("\n", 0, max(at, 0)) + 1
    return InvalidRequest(f"The grammar {what}: line {line}.")
