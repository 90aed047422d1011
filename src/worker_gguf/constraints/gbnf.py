"""Turns a grammar in llama.cpp's GBNF into llguidance's Lark: https://github.com/ggml-org/llama.cpp, grammars/README.md

llguidance has a converter of its own. It writes some escapes and classes so that they mean something else or nothing,
and lets names collide; and a rule over characters becomes slow in it unless it is a terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from msgspec import Struct

from worker_gguf.errors import InvalidRequest

__all__ = ["gbnf_to_lark"]

# llama.cpp has the same limit.
MAX_REPEATS = 2000

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


class _Rule(Struct):
    name: str
    parts: list[str]
    uses: set[str]
    depth: int = 0
    can_repeat: bool = False


def gbnf_to_lark(text: str) -> str:
    """Return the grammar in Lark. Raises InvalidRequest with the line of the fault, without text of the grammar.

    A rule that does not lead back to itself becomes a terminal, which llguidance matches as one regular expression. So
    does the whole grammar if no rule does.
    """
    rules = _rules(text)
    if "root" not in rules:
        raise InvalidRequest("The grammar has no rule named root. Define one: root ::= ...")
    terminals = _terminals(rules)
    names = {name: f"T{number}" if name in terminals else f"r{number}" for number, name in enumerate(rules)}
    lines = [f"start: {names['root']}"]
    for rule in rules.values():
        body = "".join(names[part[1:]] if part.startswith("@") else part for part in rule.parts)
        lines.append(f"{names[rule.name]}: {body}")
    return "\n".join(lines) + "\n"


def _rules(text: str) -> dict[str, _Rule]:
    """Return the rules. A reference to a rule is a part that begins with @."""
    rules: dict[str, _Rule] = {}
    rule: _Rule | None = None
    places: dict[str, int] = {}
    for found, at in _tokens(text):
        if found["rule"]:
            if rule:
                _close(rule, text, at)
            if found["rule"] in rules:
                raise _fault(text, at, "defines a rule a second time")
            rule = rules[found["rule"]] = _Rule(found["rule"], [], set())
        elif rule is None:
            raise _fault(text, at, "must begin with a rule: name ::= ...")
        else:
            _add(rule, found, text, at)
            if found["name"]:
                places.setdefault(found["name"], at)
    if rule:
        _close(rule, text, len(text))
    for name, at in places.items():
        if name not in rules:
            raise _fault(text, at, "names a rule that is not defined")
    return rules


def _tokens(text: str) -> Iterator[tuple[re.Match[str], int]]:
    at = 0
    while at < len(text):
        found = _TOKENS.match(text, at)
        if not found:
            raise _fault(text, at, "has a character or an unfinished text that GBNF does not allow here")
        if not found["space"]:
            yield found, at
        at = found.end()


def _add(rule: _Rule, found: re.Match[str], text: str, at: int) -> None:
    """Add what was found to a rule, as Lark."""
    sign = found["sign"]
    is_repetition = found["least"] is not None or (sign is not None and sign in "*+?")
    if is_repetition and not rule.can_repeat:
        raise _fault(text, at, "repeats nothing")
    rule.can_repeat = not is_repetition and sign not in ("(", "|")
    if found["token"]:
        raise _fault(text, at, "names a token, as in <think>, which is not supported; write its text")
    if found["least"] is not None:
        rule.parts.append(_repetition(found, text, at))
    elif found["name"]:
        rule.uses.add(found["name"])
        rule.parts += (" ", "@" + found["name"])
    elif found["text"] is not None:
        rule.parts.append(" " + json.dumps("".join(_characters(found["text"], text, at))))
    elif found["others"] is not None or found["members"] is not None:
        rule.parts.append(" " + _class(found, text, at))
    elif sign == ".":
        rule.parts.append(" /(?s:.)/")
    elif sign == "|":
        _end_alternative(rule)
        rule.parts.append(" |")
    else:
        rule.depth += (sign == "(") - (sign == ")")
        if rule.depth < 0:
            raise _fault(text, at, "has a parenthesis without its partner")
        if sign == ")":
            _end_alternative(rule)
        rule.parts.append(" (" if sign == "(" else str(sign))


def _close(rule: _Rule, text: str, at: int) -> None:
    if rule.depth:
        raise _fault(text, at - 1, "has a parenthesis without its partner")
    _end_alternative(rule)


def _end_alternative(rule: _Rule) -> None:
    """An alternative may be empty."""
    if not rule.parts or rule.parts[-1] in (" |", " ("):
        rule.parts.append(' ""')


def _repetition(found: re.Match[str], text: str, at: int) -> str:
    least = int(found["least"])
    most = int(found["most"]) if found["most"] else None if found["comma"] else least
    if max(least, most or 0) > MAX_REPEATS:
        raise _fault(text, at, f"repeats more than {MAX_REPEATS} times")
    if most is not None and most < least:
        raise _fault(text, at, "repeats at most fewer times than at least")
    return f"{{{least},{'' if most is None else most}}}"


def _class(found: re.Match[str], text: str, at: int) -> str:
    """Write a class with the numbers of its characters, so that none of them is a sign of regular expressions."""
    members = list(_characters(found["others"] or found["members"] or "", text, at, keeps_range=True))
    if not members:
        if found["negated"]:
            return "/(?s:.)/"
        raise _fault(text, at, "has an empty class, which no text matches")
    parts: list[str] = []
    while members:
        first = members.pop(0)
        if len(members) > 1 and members[0] == "-":
            last = members[1]
            del members[:2]
            if _code(last) < _code(first):
                raise _fault(text, at, "has a class with a range that goes backwards")
            parts.append(f"\\x{{{_code(first):X}}}-\\x{{{_code(last):X}}}")
        else:
            parts.append(f"\\x{{{_code(first):X}}}")
    return f"/[{'^' if found['negated'] else ''}{''.join(parts)}]/"


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


def _terminals(rules: dict[str, _Rule]) -> set[str]:
    """Return the rules that use only terminals."""
    found: set[str] = set()
    while more := {name for name, rule in rules.items() if name not in found and rule.uses <= found}:
        found |= more
    return found


def _fault(text: str, at: int, what: str) -> InvalidRequest:
    line = text.count("\n", 0, max(at, 0)) + 1
    return InvalidRequest(f"The grammar {what}: line {line}.")
