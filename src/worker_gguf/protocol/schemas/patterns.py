"""Rewrites the patterns of a JSON Schema for llguidance, so that both read the same language into them.

JSON Schema has ECMA-262's regular expressions, llguidance has those of Rust. What only one of them has, or what they
read differently, is refused. Of the classes whose members differ between ECMA-262, Rust and Python, the rewritten
pattern keeps the characters on which all agree, so that an answer is valid for each of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["FORMATS", "SAME_AS_ANY", "PatternFault", "rewritten"]

_SPACES = r"\t\n\x0B\x0C\r\x20"
_MORE_SPACES = r"\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}"
_LETTERS = "0-9A-Za-z_"
# ECMA-262's members of the classes.
_EXACT = {
    "d": "0-9",
    "D": "[^0-9]",
    "w": _LETTERS,
    "W": f"[^{_LETTERS}]",
    "s": _SPACES + _MORE_SPACES,
    "S": f"[^{_SPACES}{_MORE_SPACES}]",
}
_ALL_LETTERS = _LETTERS + r"\p{L}\p{M}\p{N}\p{Pc}"
_ALL_SPACES = _SPACES + _MORE_SPACES + r"\x1C-\x1F\x{85}"
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
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_DOT = r"[^\n\r\x{2028}\x{2029}]"
_PUNCTUATION = frozenset("^$\\.*+?()[]{}|/-")
_WRITTEN = frozenset(map(ord, "\b\t\n\f\r"))
_UNWRITABLE = "needs a control character that answers never contain"
_LOW_SURROGATE = re.compile(r"\\u(D[C-F][0-9A-F]{2})", re.IGNORECASE)
_HEX = {"x": re.compile(r"[0-9A-Fa-f]{2}"), "u": re.compile(r"[0-9A-Fa-f]{4}")}
_PROPERTY = re.compile(r"\\[pP]\{[A-Za-z_]+(=[A-Za-z_]+)?\}")
_REPEAT = re.compile(r"\{[0-9]+(,[0-9]*)?\}")
_MOST_REPEATS = 100_000
_MOST_DIGITS = 20

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

# Thousands of schemas may have them, and they are the longest.
_SAME = frozenset(FORMATS.values())

SAME_AS_ANY = frozenset({"binary", "password"})
"""Formats of OpenAPI that any text has."""


class PatternFault(ValueError):
    """The pattern cannot be guaranteed. The message says why, without the text of the pattern."""


def rewritten(pattern: str, *, exact: bool = False) -> str:
    """Return the pattern in Rust's syntax. Raises PatternFault.

    With `exact`, the classes have exactly ECMA-262's members, for a pattern that also decides what does not match it.
    """
    if pattern in _SAME:
        return pattern
    parts: list[str] = []
    at, n_open, can_repeat = 0, 0, False
    while at < len(pattern):
        char = pattern[at]
        match char:
            case "\\":
                part, at = _escape(pattern, at, _EXACT if exact else _EVERYWHERE)
                parts.append(part)
            case "[":
                part, at = _class(pattern, at, exact)
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
            case _:
                _check_plain(pattern, at)
                n_open -= char == ")"
                parts.append(char)
                at += 1
        if n_open < 0:
            break
        can_repeat = char not in "(|^$*+?{"
    if n_open:
        raise PatternFault("has a parenthesis without its partner")
    return "".join(parts)


def _check_plain(pattern: str, at: int) -> None:
    """Check a character that stands for itself, for an end of the text, or for a choice or the end of a group."""
    char = pattern[at]
    if char == "^" and at and pattern[at - 1] not in "(|:^":
        raise PatternFault("has a ^ that is not at its beginning, which is not supported")
    if char == "$" and pattern[at + 1 : at + 2] not in ("", ")", "|", "$"):
        raise PatternFault("has a $ that is not at its end, which is not supported")
    if not _can_be_written(ord(char), ord(char)):
        raise PatternFault(_UNWRITABLE)


def _escape(pattern: str, at: int, members: Mapping[str, str]) -> tuple[str, int]:
    """Rewrite the escape at this place, outside a class. Returns it and the place behind it."""
    letter = pattern[at + 1 : at + 2]
    if letter in members:
        return f"[{members[letter]}]", at + 2
    if letter in ("b", "B"):
        raise PatternFault("looks at the edge of a word (\\b), which is not supported")
    return _character(pattern, at)


def _character(pattern: str, at: int) -> tuple[str, int]:
    """Rewrite an escape that stands for one character, or for the characters with a property."""
    found = _PROPERTY.match(pattern, at)
    if found:
        return found[0], found.end()
    code, at = _code(pattern, at)
    if not _can_be_written(code, code):
        raise PatternFault(_UNWRITABLE)
    return f"\\x{{{code:X}}}", at


def _code(pattern: str, at: int) -> tuple[int, int]:
    """Return the character that an escape stands for, and the place behind it."""
    letter = pattern[at + 1 : at + 2]
    if letter in _CONTROLS:
        return _CONTROLS[letter], at + 2
    if letter in _PUNCTUATION:
        return ord(letter), at + 2
    if letter in _HEX and (found := _HEX[letter].match(pattern, at + 2)):
        code, end = int(found[0], 16), found.end()
        if 0xD800 <= code < 0xDC00 and (low := _LOW_SURROGATE.match(pattern, end)):
            code, end = 0x10000 + ((code - 0xD800) << 10) + int(low[1], 16) - 0xDC00, low.end()
        if 0xD800 <= code < 0xE000:
            raise PatternFault("has a surrogate, which is not a character")
        return code, end
    if letter == "0" and not pattern[at + 2 : at + 3].isdigit():
        return 0, at + 2
    if letter.isdigit() or letter == "k":
        raise PatternFault("refers back to a group, which is not supported")
    raise PatternFault("has an escape that is not supported")


def _can_be_written(first: int, last: int) -> bool:
    """Return whether answers can contain one of the characters in a range: no \\u escapes are written."""
    return any(code in _WRITTEN or (code > 0x1F and code != 0x7F) for code in range(first, min(last, 0x80) + 1)) or (
        last > 0x7F
    )


def _class(pattern: str, at: int, exact: bool) -> tuple[str, int]:
    """Rewrite the class that begins here, such as `[^a-z\\d]`."""
    is_negated = pattern.startswith("[^", at)
    parts = ["[^" if is_negated else "["]
    members = _EXACT if exact else _ANYWHERE if is_negated else _EVERYWHERE
    can_match = is_negated
    at += len(parts[0])
    while at < len(pattern) and pattern[at] != "]":
        part, code, at = _member(pattern, at, members)
        last = code
        if code is not None and pattern.startswith("-", at) and pattern[at + 1 : at + 2] not in ("]", ""):
            end, last, at = _member(pattern, at + 1, members)
            if last is None or last < code:
                raise PatternFault("has a class with a range that is not valid")
            part = f"{part}-{end}"
        parts.append(part)
        can_match = can_match or code is None or last is None or _can_be_written(code, last)
    if at >= len(pattern):
        raise PatternFault("has a bracket without its partner")
    if len(parts) == 1:
        raise PatternFault("has an empty class, which dialects read in different ways")
    if not can_match:
        raise PatternFault(_UNWRITABLE)
    return "".join([*parts, "]"]), at + 1


def _member(pattern: str, at: int, members: Mapping[str, str]) -> tuple[str, int | None, int]:
    """Return the member of a class at this place: its text, its character unless it is a class, the place behind it."""
    letter = pattern[at + 1 : at + 2] if pattern[at] == "\\" else ""
    if letter in members:
        return members[letter], None, at + 2
    if found := _PROPERTY.match(pattern, at):
        return found[0], None, found.end()
    code, at = (8, at + 2) if letter == "b" else _code(pattern, at) if letter else (ord(pattern[at]), at + 1)
    return f"\\x{{{code:X}}}", code, at


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
        # A number with thousands of digits is none for int().
        if max(len(least), len(most)) > _MOST_DIGITS or max(int(least), int(most or 0)) > _MOST_REPEATS:
            raise PatternFault(f"repeats more than {_MOST_REPEATS} times")
        if most and int(least) > int(most):
            raise PatternFault("repeats at most fewer times than at least")
    end = at + len(text)
    # A lazy repetition matches the same texts.
    return text, end + pattern.startswith("?", end)
