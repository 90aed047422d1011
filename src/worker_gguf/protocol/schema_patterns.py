"""Rewrites the patterns of a JSON Schema for llguidance, so that both read the same language into them.

JSON Schema has ECMA-262's regular expressions, llguidance has those of Rust. What only one of them has, or what they
read differently, is refused. Of the classes whose members differ between ECMA-262, Rust and Python, the rewritten
pattern keeps the characters on which all agree, so that an answer is valid for each of them.
"""

from __future__ import annotations

import re

__all__ = ["FORMATS", "SAME_AS_ANY", "PatternFault", "rewritten"]

_SPACES = r"\t\n\x0B\x0C\r\x20"
_ALL_SPACES = (
    _SPACES + r"\x1C-\x1F\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}"
)
_LETTERS = "0-9A-Za-z_"
_ALL_LETTERS = _LETTERS + r"\p{L}\p{M}\p{N}\p{Pc}"
# What every dialect counts as a member, and what any of them does. A negated class leaves out the latter.
_EVERYWHERE = {
    "d": "0-9",
    "D": r"\P{Nd}",
    "w": _LETTERS,
    "W": f"[^{_ALL_LETTERS}]",
    "s": _SPACES,
    "S": f"[^{_ALL_SPACES}]",
}
_ANYWHERE = {
    "d": r"\p{Nd}",
    "D": "[^0-9]",
    "w": _ALL_LETTERS,
    "W": f"[^{_LETTERS}]",
    "s": _ALL_SPACES,
    "S": f"[^{_SPACES}]",
}
_CONTROLS = {"t": r"\t", "n": r"\n", "r": r"\r", "v": r"\x0B", "f": r"\x0C"}
_DOT = r"[^\n\r\x{2028}\x{2029}]"
_PUNCTUATION = frozenset("^$\\.*+?()[]{}|/-")
_IN_CLASS = frozenset("[]^-&~\\")
_HEX = {"x": re.compile(r"[0-9A-Fa-f]{2}"), "u": re.compile(r"[0-9A-Fa-f]{4}")}
_PROPERTY = re.compile(r"\{[A-Za-z_]+(=[A-Za-z_]+)?\}")
_REPEAT = re.compile(r"\{[0-9]+(,[0-9]*)?\}")
_MOST_REPEATS = 100_000

_DAYS_TO_28 = r"(?:0[1-9]|1[0-9]|2[0-8])"
_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-{_DAYS_TO_28})|{_LEAP_YEAR}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9]|-[A-Za-z0-9]){0,31}"

FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "email": rf"^{_ATOM}(?:{_ATOM}|\.{_ATOM}){{0,31}}@{_LABEL}(?:\.{_LABEL}){{0,2}}$",
    "hostname": rf"^{_LABEL}(?:\.{_LABEL}){{0,2}}$",
}
"""Formats as patterns, where llguidance's own would let a text pass that does not have the format.

A date must exist, unlike 2023-02-29. Left out are a lower-case `t` and `z` and a leap second, which RFC 3339 allows,
and names of hosts and mailboxes near the limits of their lengths."""

SAME_AS_ANY = frozenset({"binary", "password"})
"""Formats of OpenAPI that any text has."""


class PatternFault(ValueError):
    """The pattern cannot be guaranteed. The message says why, without the text of the pattern."""


def rewritten(pattern: str) -> str:
    """Return the pattern in Rust's syntax. Raises PatternFault."""
    parts: list[str] = []
    at, n_open, can_repeat = 0, 0, False
    while at < len(pattern):
        char = pattern[at]
        match char:
            case "\\":
                part, at = _escape(pattern, at)
                parts.append(part)
            case "[":
                part, at = _class(pattern, at)
                parts.append(part)
            case "(":
                part, at = _group(pattern, at)
                parts.append(part)
                n_open += 1
            case "*" | "+" | "?" | "{":
                part, at = _repeat(pattern, at, can_repeat)
                parts.append(part)
            case ".":
                parts.append(_DOT)
                at += 1
            case "}" | "]":
                parts.append("\\" + char)
                at += 1
            case "^" if at and pattern[at - 1] not in "(|:^":
                raise PatternFault("has a ^ that is not at its beginning, which is not supported")
            case "$" if pattern[at + 1 : at + 2] not in ("", ")", "|", "$"):
                raise PatternFault("has a $ that is not at its end, which is not supported")
            case _:
                n_open -= char == ")"
                parts.append(char)
                at += 1
        if n_open < 0:
            break
        can_repeat = char not in "(|^$*+?{"
    if n_open:
        raise PatternFault("has a parenthesis without its partner")
    return "".join(parts)


def _escape(pattern: str, at: int) -> tuple[str, int]:
    """Rewrite the escape at this place, outside a class. Returns it and the place behind it."""
    letter = pattern[at + 1 : at + 2]
    if letter in _EVERYWHERE:
        return f"[{_EVERYWHERE[letter]}]", at + 2
    if letter in ("b", "B"):
        raise PatternFault("looks at the edge of a word (\\b), which is not supported")
    return _character(pattern, at)


def _character(pattern: str, at: int) -> tuple[str, int]:
    """Rewrite an escape that stands for one character, or for the characters with a property."""
    letter = pattern[at + 1 : at + 2]
    if letter in _CONTROLS:
        return _CONTROLS[letter], at + 2
    if letter in _PUNCTUATION and letter:
        return "\\" + letter, at + 2
    if letter in ("p", "P") and (found := _PROPERTY.match(pattern, at + 2)):
        return pattern[at : found.end()], found.end()
    if letter in _HEX and (found := _HEX[letter].match(pattern, at + 2)):
        code, end = int(found[0], 16), found.end()
        if 0xD800 <= code < 0xDC00 and (low := re.compile(r"\\u(D[C-F][0-9A-F]{2})", re.I).match(pattern, end)):
            code, end = 0x10000 + ((code - 0xD800) << 10) + int(low[1], 16) - 0xDC00, low.end()
        if 0xD800 <= code < 0xE000:
            raise PatternFault("has a surrogate, which is not a character")
        return f"\\x{{{code:X}}}", end
    if letter == "0" and not pattern[at + 2 : at + 3].isdigit():
        return r"\x00", at + 2
    if letter.isdigit() or letter == "k":
        raise PatternFault("refers back to a group, which is not supported")
    raise PatternFault("has an escape that is not supported")


def _class(pattern: str, at: int) -> tuple[str, int]:
    """Rewrite the class that begins here, such as `[^a-z\\d]`."""
    is_negated = pattern.startswith("[^", at)
    parts = ["[^" if is_negated else "["]
    members = _ANYWHERE if is_negated else _EVERYWHERE
    at += len(parts[0])
    while at < len(pattern) and pattern[at] != "]":
        char = pattern[at]
        letter = pattern[at + 1 : at + 2] if char == "\\" else ""
        if letter in members:
            parts.append(members[letter])
            at += 2
        elif letter == "b":
            parts.append(r"\x08")
            at += 2
        elif char == "\\":
            part, at = _character(pattern, at)
            parts.append(part)
        else:
            is_range = char == "-" and len(parts) > 1 and pattern[at + 1 : at + 2] not in ("]", "")
            parts.append(char if char not in _IN_CLASS or is_range else "\\" + char)
            at += 1
    if at >= len(pattern):
        raise PatternFault("has a bracket without its partner")
    if len(parts) == 1:
        if not is_negated:
            raise PatternFault("has an empty class, which no text matches")
        return r"(?s:.)", at + 1
    return "".join([*parts, "]"]), at + 1


def _group(pattern: str, at: int) -> tuple[str, int]:
    if not pattern.startswith("(?", at):
        return "(?:", at + 1
    if pattern.startswith("(?:", at):
        return "(?:", at + 3
    if pattern.startswith(("(?=", "(?!", "(?<=", "(?<!"), at):
        raise PatternFault("looks ahead or behind, which is not supported")
    named = re.compile(r"\(\?<[A-Za-z_$][\w$]*>").match(pattern, at)
    if not named:
        raise PatternFault("has a kind of group that is not supported")
    return "(?:", named.end()


def _repeat(pattern: str, at: int, can_repeat: bool) -> tuple[str, int]:
    found = _REPEAT.match(pattern, at) if pattern[at] == "{" else None
    if pattern[at] == "{" and not found:
        return r"\{", at + 1
    if not can_repeat:
        raise PatternFault("repeats nothing")
    text = found[0] if found else pattern[at]
    if found:
        least, _, most = text[1:-1].partition(",")
        if max(int(least), int(most or 0)) > _MOST_REPEATS:
            raise PatternFault(f"repeats more than {_MOST_REPEATS} times")
        if most and int(least) > int(most):
            raise PatternFault("repeats at most fewer times than at least")
    end = at + len(text)
    # A lazy repetition matches the same texts.
    return text, end + pattern.startswith("?", end)
