"""Combines the calls that an answer may have with the constraint of its text, and with the marks around this text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from msgspec.structs import replace

from worker_gguf.engine.json_form import JSON_FORM
from worker_gguf.engine.request import Constraint
from worker_gguf.errors import UnsupportedParameter
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.lark import literal, optional
from worker_gguf.markup.tool import ToolUse
from worker_gguf.service.markups import TemplateMarkup

__all__ = ["answer_constraint"]

TokenOf = Callable[[str], int | None]

_START = "start: "

_BARE_CALLS = (
    "The calls of this model are bare JSON, so beside tools that may be called the answer can only be held to a JSON "
    "schema. Send tool_choice none or required, or a JSON schema."
)


def answer_constraint(
    markup: TemplateMarkup, use: ToolUse | None, text: Constraint | None, token_of: TokenOf
) -> Constraint | None:
    """Return what the answer must match. `text` is the constraint of the request, if it has one.

    With both, the answer is calls or matches `text`. `token_of` returns the id of a control token by its text, else
    None. Raises UnsupportedParameter if that cannot be expressed.
    """
    if text is None or (use is not None and use.is_required):
        return None if use is None else _calls(markup, use, token_of)
    before, after = _marks_around(markup.format, token_of)
    if use is None and not (before or after):
        return text
    # Imported here, because a start should not wait for it.
    from worker_gguf.service.calls_or_json import calls_or_json, has_bare_calls

    if use is not None and has_bare_calls(markup.format) and not text.triggers:
        if text.kind != "json_schema":
            raise UnsupportedParameter(_BARE_CALLS, param=text.param)
        one = calls_or_json(markup.format, use, text)
        if one is None:
            raise _not_combined(use)
        return one
    rule = _rule(text)
    if rule is None:
        raise _not_combined(use)
    answer = f"{before} text_of_answer {after}".strip()
    if use is None:
        return Constraint("lark", f"{_START}{answer}\ntext_of_answer: {rule}\n")
    calls = markup.call_constraint(replace(use, is_required=True), token_of)
    if not calls.grammar.startswith(_START):
        raise _not_combined(use)
    # The first rule of the calls gets another name, and the new first rule chooses between them and the text.
    grammar = f"{_START}calls_of_answer | {answer}\ncalls_of_answer: {calls.grammar.removeprefix(_START)}"
    return replace(calls, grammar=f"{grammar}\ntext_of_answer: {rule}\n", param=text.param)


def _calls(markup: TemplateMarkup, use: ToolUse, token_of: TokenOf) -> Constraint:
    constraint = markup.call_constraint(use, token_of)
    # In some formats each call begins anew after free text, and no grammar keeps the model from a second one.
    return replace(constraint, is_last=not use.is_parallel, param="tools")


def _marks_around(call_format: CallFormat, token_of: TokenOf) -> tuple[str, str]:
    """Return the expressions of what a model writes before and after its content, "" for nothing."""

    def mark(text: str) -> str:
        token = token_of(text)
        return literal(text) if token is None else f"<[{token}]>"

    channels = call_format.channels
    if channels is not None:
        # The prompt has begun the first message; after its reasoning, the model begins another.
        begun = optional(f"{mark(channels.start)} {literal(channels.role)}")
        return f"{begun} {mark(channels.channel)} {literal(channels.content[0])} {mark(channels.message)}", ""
    start, end = call_format.content_start.strip(), call_format.content_end.strip()
    return optional(mark(start)) if start else "", optional(mark(end)) if end else ""


def _rule(text: Constraint) -> str | None:
    """Return the body of a Lark rule for a constraint, or None if there is none."""
    if text.triggers:
        return None
    match text.kind:
        case "json_schema":
            schema = json.loads(text.grammar)
            # A schema that is true allows any value.
            fields = schema if isinstance(schema, dict) else {}
            return f"%json {json.dumps({**fields, 'x-guidance': {**JSON_FORM, 'lenient': text.is_lenient}})}"
        case "choice":
            return " | ".join(map(literal, json.loads(text.grammar)))
        case "regex":
            return _expression(text.grammar)
        case _:
            return None


def _expression(regex: str) -> str:
    """Return a regular expression between the slashes of Lark, with those in it escaped."""
    escaped = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", regex)
    return "/" + escaped.replace("\n", r"\n") + "/"


def _not_combined(use: ToolUse | None) -> UnsupportedParameter:
    if use is None:
        return UnsupportedParameter(
            "This model writes marks around its answer, and the grammar of the request cannot be put between them. "
            "Send a JSON schema, a regular expression or a list of choices."
        )
    return UnsupportedParameter(
        "Tools that may be called are supported together with a JSON schema, a regular expression or a list of choices "
        "for the answer, not with another grammar. Send tool_choice none or required, or another constraint.",
        param="tool_choice",
    )
