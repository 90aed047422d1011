"""Checks the grammars of requests before anything compiles them, and prepares the JSON Schemas inside them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from worker_gguf.engine.json_form import JSON_FORM
from worker_gguf.protocol.grammar_length import check_grammar_length, check_regex_length
from worker_gguf.protocol.schemas.fault import Refused

__all__ = ["MAX_GRAMMAR", "MAX_REGEX", "check_grammar", "checked_regex", "is_gbnf", "with_schemas"]

# In characters.
MAX_GRAMMAR = 64 * 1024
MAX_REGEX = 16 * 1024
# llguidance compiles the rules of a grammar by recursion. A thread's stack of 8 MB was full at 2600 rules, each with a
# reference to the next, or at 4100 nested groups (llguidance 1.9.1).
MAX_RULES = 500
MAX_GROUPS = 1000

_GBNF = re.compile(r"^[ \t]*[A-Za-z0-9_-]+[ \t]*::=", re.MULTILINE)
_RULE = re.compile(
    r"^[ \t]*[?!]?[A-Za-z_][\w-]*(?:\.-?\d+)?(?:\[(?P<options>[^\]\n]*)\])?[ \t]*(?:::=|:)", re.MULTILINE
)
_OPTION = re.compile(r"\b(max_tokens|stop|stop_capture|temperature)\b")
_JSON = re.compile(r"%json\s*")
_GROUP = re.compile(r"[(\[{]")


def is_gbnf(text: str) -> bool:
    """Return whether a grammar is written in GBNF, and not in Lark."""
    return _GBNF.search(text) is not None


def check_grammar(text: str) -> None:
    """Raise Refused if a grammar is too large to be compiled, or has options that this worker does not honour."""
    if not text.strip():
        raise Refused("is empty")
    if len(text) > MAX_GRAMMAR:
        raise Refused(f"has more than {MAX_GRAMMAR} characters")
    rules = list(_RULE.finditer(text))
    if len(rules) > MAX_RULES:
        raise Refused(f"has more than {MAX_RULES} rules")
    if sum(1 for _ in _GROUP.finditer(text)) > MAX_GROUPS:
        raise Refused(f"has more than {MAX_GROUPS} groups and classes")
    for rule in rules:
        if found := _OPTION.search(rule["options"] or ""):
            instead = "use suffix" if found[1].startswith("stop") else "leave it out"
            raise Refused(f"has a rule with the option {found[1]}, which is not supported; {instead}")
    check_grammar_length(text, is_gbnf=is_gbnf(text))


def with_schemas(lark: str, prepared: Callable[[object], dict[str, Any]]) -> str:
    """Return a Lark grammar in which `prepared` has replaced each JSON Schema (%json). Raises Refused."""
    parts: list[str] = []
    at = 0
    while found := _JSON.search(lark, at):
        try:
            schema, end = json.JSONDecoder().raw_decode(lark, found.end())
        except (ValueError, RecursionError):
            raise Refused("has a %json without a JSON Schema behind it") from None
        text = json.dumps({**prepared(schema), "x-guidance": dict(JSON_FORM)})
        parts += (lark[at : found.start()], "%json ", text)
        at = end
    return "".join([*parts, lark[at:]])


def checked_regex(text: str) -> str:
    """Return a regular expression, or raise Refused."""
    if len(text) > MAX_REGEX:
        raise Refused(f"has more than {MAX_REGEX} characters")
    if (len(text) - len(text.rstrip("\\"))) % 2:
        raise Refused("ends with a backslash, which escapes nothing")
    check_regex_length(text)
    return text
