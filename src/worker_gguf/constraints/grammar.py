"""Turns a constraint into a grammar of llguidance."""

from __future__ import annotations

import json
import re
from typing import Any

from worker_gguf.engine.json_form import JSON_FORM
from worker_gguf.engine.request import Constraint
from worker_gguf.errors import InvalidRequest

__all__ = ["compiled_text", "reason", "unusable"]

_MAX_REASON = 160
_BAD_REGEX = "it has a regular expression that is not valid"
# What llguidance's messages say of a fault, for those that would otherwise quote the grammar.
_REASONS = (
    (r"^NoExtension", "no token can follow"),
    (r"Unsatisfiable schema", "no value matches the schema"),
    (r"circular references with sibling keys", "a $ref with other keywords next to it refers to itself"),
    (r"patternProperty", "two patterns of patternProperties may match the same name"),
    (r"if regex is empty|range for", "a pattern or a range of numbers is too complex"),
    (r"schema too large|stack level", "allOf, anyOf, oneOf or $ref multiply each other too often"),
    (r"min/maxProperties", "minProperties and maxProperties need all named properties in required"),
    (r"oneOf", "the options of a oneOf are not known to exclude each other; use anyOf"),
    (r"too big|too large|fuel|[Tt]oo many|items; max|too complex", "it is too large or too complex"),
    (r"look-?around", "it has a regular expression that looks ahead or behind, or at the edge of a word"),
    (r"backreference", "it has a regular expression that refers back to a group"),
    (r"regex|repetition", _BAD_REGEX),
    (r"too deeply nested|recursion limit", "it is nested too deeply"),
    (r"circular reference", "a terminal refers to itself; write its name in lower case"),
    (r"unknown name|not found", "it uses a rule that is not defined"),
    (r"no start rule", "it has no rule named start"),
    (r"unknown special token|[Tt]oken range", "it names a token that the model does not have"),
    (r"Empty grammar", "it is empty"),
    (r"lexer error|[Ee]xpected", "it is not well-formed"),
)
# The keyword that a fault is about, where only one use of it can be meant.
_KEYWORDS = (
    (r"patternProperty", "patternProperties"),
    (r"circular references with sibling keys", "$ref"),
    (r"min/maxProperties", "minProperties"),
    (r"range for", "minimum"),
    (r"regex", "pattern"),
)
# The fault of a regular expression, in fixed words. A line break in the expression itself is escaped.
_FAULT = re.compile(r"^error: ([A-Za-z ,<=-]{1,80})$", re.MULTILINE)
_LINE = re.compile(r"^(?:at )?(\d+)\(\d+\)")
_LINE_AT_END = re.compile(r" \(line \d+\)$")


def compiled_text(constraint: Constraint) -> str:
    """Return the grammar of a constraint for an LLMatcher: Lark, or JSON with a list of grammars.

    The messages have no text from the request beyond names of keywords. Raises InvalidRequest, without `param`, if the
    constraint cannot be converted. Not every fault shows here: others show when it is compiled.
    """
    from llguidance import LLMatcher

    match constraint.kind:
        case "json_schema":
            options = {**JSON_FORM, "lenient": constraint.is_lenient}
            try:
                return LLMatcher.grammar_from_json_schema(constraint.grammar, overrides=options)  # type: ignore[arg-type]
            except ValueError as error:
                raise unusable(constraint, str(error)) from None
        case "regex":
            return LLMatcher.grammar_from_regex(constraint.grammar)
        case "gbnf":
            from worker_gguf.constraints.gbnf import gbnf_to_lark

            return gbnf_to_lark(constraint.grammar)
        case "choice":
            return _choice(json.loads(constraint.grammar))
        case "lark":
            return constraint.grammar


def unusable(constraint: Constraint, message: str) -> InvalidRequest:
    """Return the error for a constraint that llguidance refused with this message, without `param`.

    It has no text of the request, but for a JSON Schema the place of the fault, if that is known.
    """
    what = {"json_schema": "JSON Schema", "regex": "regular expression"}.get(constraint.kind, "grammar")
    place = _place(constraint.grammar, message) if constraint.kind == "json_schema" else ""
    why = reason(message)
    if constraint.param == "tools":  # the grammar of calls is our own, and so are its lines
        what, why = "schema of a tool's parameters", _LINE_AT_END.sub("", why)
    elif constraint.kind == "regex":
        why = why.removesuffix(" (line 1)").replace("it has a regular expression that", "it")
    elif constraint.kind in ("gbnf", "lark"):
        why += f", read as {'GBNF' if constraint.kind == 'gbnf' else 'Lark'}"
        if constraint.kind == "lark" and (constraint.param or "").endswith("grammar"):  # it may be either of the two
            why += ": rules of GBNF have ::="
    return InvalidRequest(f"The {what} cannot be used: {why}{place}.")


def reason(message: str) -> str:
    """Return what an error of llguidance means, without text of the grammar, as the end of a sentence.

    Its messages quote the grammar and the text so far.
    """
    lines = message.splitlines() or [""]
    first = lines[0]
    # A fault of a regular expression is named in a line of its own.
    named = " ".join([first, *(line for line in lines if line.startswith("error:"))])
    found = next((text for pattern, text in _REASONS if re.search(pattern, named)), None)
    if found is None and re.fullmatch(r"[A-Za-z ,.()-]*", first):
        found = first[:_MAX_REASON]
    if found is _BAD_REGEX and (fault := _FAULT.search(message)):
        found = f"{found}: {fault[1]}"
    line = _LINE.match(first)
    return (found or "llguidance does not accept it") + (f" (line {line[1]})" if line else "")


def _choice(texts: list[str]) -> str:
    """One terminal, because llguidance would follow only the longest of several that begin alike."""
    return f"start: CHOICE\nCHOICE: {' | '.join(map(json.dumps, texts))}\n"


def _place(schema: str, message: str) -> str:
    """Return where a schema has the keyword that a message is about, if there is only one such place."""
    keyword = next((keyword for pattern, keyword in _KEYWORDS if re.search(pattern, message)), None)
    try:
        todo: list[tuple[Any, str]] = [(json.loads(schema), "")]
    except ValueError:
        return ""
    found: list[str] = []
    while todo:
        value, place = todo.pop()
        if isinstance(value, dict) and keyword in value:
            found.append(place)
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        todo += [(part, f"{place}/{str(key).replace('~', '~0').replace('/', '~1')}") for key, part in items]
    return f" ('{keyword}' at #{found[0][:_MAX_REASON]})" if len(found) == 1 else ""
