"""Estimates how long the texts of a grammar must be, so that one that would take too long to compile is refused before.

llguidance goes through a text at once where nothing else can match: for `(a{2000}){2000}`, four million characters. It
takes about 2 µs for each, and has a limit beyond which it fails in the middle of an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter

from msgspec import Struct

from worker_gguf.protocol.schemas.fault import Refused

__all__ = ["MOST_CHARACTERS", "check_grammar_length", "check_regex_length"]

# llguidance fails in the middle of an answer from 50,000 on. 32,768 take 0.1 s.
MOST_CHARACTERS = 32 * 1024

# In each, what is not closed goes on up to the end, so that it is not looked for again and again.
_COUNT = r"(?P<repeat>\{[ ]*(?P<least>\d*)[ ]*(?:,[ ]*\d*[ ]*)?\}|[*+?])"
_STRING = r'"(?:[^"\\]|\\.)*(?:"|\Z)'
_CLASS = r"\[\^?\]?(?:[^\]\\]|\\.)*(?:\]|\Z)"
_REGEX = re.compile(
    rf"""(?P<flags>\(\?[A-Za-z-]+\))|(?P<open>\((?:\?(?:P?<\w+>|[A-Za-z-]*:))?)
    |(?P<edge>[\^$]|\\[bBAzZ])
    |(?P<character>{_CLASS}|\\[pPxuU]\{{[^}}]{{0,40}}\}}|\\[pP][A-Z]|\\x[0-9A-Fa-f]{{2}}
        |\\u[0-9A-Fa-f]{{4}}|\\U[0-9A-Fa-f]{{8}}|\\.)
    |{_COUNT}\??|(?P<sign>[()|])|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_GBNF = re.compile(
    rf"""(?P<space>\s+|\#[^\n]*)|(?P<rule>[A-Za-z0-9_-]+)\s*::=|(?P<name>[A-Za-z0-9_-]+)|(?P<text>{_STRING})
    |(?P<character>{_CLASS}|\.)|{_COUNT}|(?P<sign>[()|])""",
    re.VERBOSE | re.DOTALL,
)
_NAME = r"[A-Za-z_][\w-]*"
_LARK = re.compile(
    rf"""(?P<space>\s+|//[^\n]*)|(?P<directive>%\w+)\s*
    |(?P<rule>{_NAME})(?:\.-?\d+)?(?:::\w+)?(?:\[[^\]\n]*\])?[ \t]*:(?!:)|(?P<name>{_NAME})(?:::\w+)?
    |(?P<character>{_STRING}\s*\.\.\s*{_STRING})|(?P<text>{_STRING})i?
    |/(?P<regex>(?:[^/\\\n]|\\.)+)(?:/[a-z]*|$)
    |~[ ]*(?P<times>\d+)(?:[ ]*\.\.[ ]*\d+)?|(?P<sign>[()|&~\[\]])|{_COUNT}""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_ESCAPE = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.DOTALL)


class Part(Struct, frozen=True):
    """A sign of a grammar, or what stands there: a rule's name, or the least number of characters.

    The sign is ":" behind a rule's name, "(", ")", "[", "]", "|", "&", "~" for not, "*" for a repetition, or nothing.
    """

    sign: str = ""
    number: int = 0
    name: str = ""


def check_regex_length(text: str) -> None:
    """Raise Refused if only texts that are too long match a part of a regular expression."""
    _least(_parts(_REGEX, text), {})


def check_grammar_length(text: str, *, is_gbnf: bool) -> None:
    """Raise Refused if only texts that are too long match a part of a grammar in GBNF or Lark."""
    rules: dict[str, list[Part]] = {}
    rule: list[Part] = []
    for part in _parts(_GBNF if is_gbnf else _LARK, text):
        if part.sign == ":":
            rule = rules.setdefault(part.name, [])
        else:
            rule.append(part)
    lengths: dict[str, int] = {}
    for name in _ordered(rules):
        lengths[name] = _least(rules[name], lengths)


def _ordered(rules: Mapping[str, Iterable[Part]]) -> Iterator[str]:
    """Yield the rules, each behind those that it uses. Those in circles come last."""
    sorter = TopologicalSorter({name: {part.name for part in parts} & rules.keys() for name, parts in rules.items()})
    with suppress(CycleError):
        sorter.prepare()
    left = dict.fromkeys(rules)
    while ready := sorter.get_ready():
        for name in ready:
            del left[name]
            yield name
        sorter.done(*ready)
    yield from left


def _parts(pattern: re.Pattern[str], text: str) -> Iterator[Part]:
    """Yield the parts of a grammar. What is not understood counts nothing."""
    at = 0
    while at < len(text):
        found = pattern.match(text, at)
        at = found.end() if found else at + 1
        kind = found.lastgroup if found else None
        if kind == "directive":
            end = _end_of_json(text, at)
            # %json and the like stand for a text, others like %ignore stand alone.
            yield Part() if end else Part(":", name=f"%{at}")
            at = end or at
        elif found and kind:
            yield from _read(kind, found)


def _end_of_json(text: str, at: int) -> int | None:
    try:
        return json.JSONDecoder().raw_decode(text, at)[1] if text[at : at + 1] == "{" else None
    except (ValueError, RecursionError):
        return None


def _read(kind: str, found: re.Match[str]) -> Iterator[Part]:
    value = found[kind]
    match kind:
        case "rule":
            yield Part(":", name=value)
        case "name":
            yield Part(name=value)
        case "text":
            yield Part(number=len(_ESCAPE.sub("x", value)) - 2)
        case "character" | "other":
            yield Part(number=1)
        case "regex":
            yield Part("(")
            yield from _parts(_REGEX, value)
            yield Part(")")
        case "repeat" | "times":
            least = found["least"] if value.startswith("{") else value
            # Nine digits are too much anyway.
            yield Part("*", number=int(least[:9]) if least.isdecimal() else 1 if value == "+" else 0)
        case "open":
            yield Part("(")
        case "sign":
            yield Part(value)


class _Group:
    """The least lengths of the alternatives so far, of the items so far in the last one, and of its last item."""

    def __init__(self) -> None:
        self.other: int | None = None
        self.before = 0
        self.last = 0
        self.is_negated = False

    def add(self, number: int) -> None:
        self.before = self._sum()
        self.last = 0 if self.is_negated else number
        self.is_negated = False

    def repeat(self, least: int) -> None:
        self.last *= least
        self._sum()

    def end(self) -> int:
        """End an alternative. Returns the least length of all so far."""
        self.other = self._sum() if self.other is None else min(self.other, self._sum())
        self.before = self.last = 0
        return self.other

    def _sum(self) -> int:
        number = self.before + self.last
        if number > MOST_CHARACTERS:
            limit = f"more than {MOST_CHARACTERS} characters"
            raise Refused(f"has a part that only texts of {limit} can match; use smaller numbers in its repetitions")
        return number


def _least(parts: Iterable[Part], lengths: Mapping[str, int]) -> int:
    """Return how many characters a text has at least. Raises Refused if that is too much, also for a part."""
    groups = [_Group()]
    for part in parts:
        match part.sign:
            case "(" | "[":
                groups.append(_Group())
            case ")" | "]" if len(groups) > 1:
                number = groups.pop().end()
                groups[-1].add(0 if part.sign == "]" else number)
            case "|" | "&":
                groups[-1].end()
            case "*":
                groups[-1].repeat(part.number)
            case "~":
                groups[-1].is_negated = True
            case "":
                groups[-1].add(lengths.get(part.name, part.number))
    return groups[0].end()
