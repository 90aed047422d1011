"""Combines the calls that an answer may have with the constraint of its text."""

from __future__ import annotations

import json
from collections.abc import Callable

from msgspec.structs import replace

from worker_gguf.engine.request import Constraint
from worker_gguf.errors import UnsupportedParameter
from worker_gguf.markup.tool import ToolUse
from worker_gguf.service.markups import TemplateMarkup

__all__ = ["answer_constraint"]

_START = "start: "
# How the JSON of answers is written, here as in a request without tools.
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def answer_constraint(
    markup: TemplateMarkup, use: ToolUse | None, text: Constraint | None, token_of: Callable[[str], int | None]
) -> Constraint | None:
    """Return what the answer must match. `text` is the constraint of the request, if it has one.

    With both, the answer is calls or matches `text`. Raises UnsupportedParameter if that cannot be expressed.
    """
    if use is None:
        return text
    if text is None or use.is_required:
        return markup.call_constraint(use, token_of)
    calls = markup.call_constraint(replace(use, is_required=True), token_of)
    rule = _rule(text)
    if rule is None or calls.kind != "lark" or not calls.grammar.startswith(_START):
        raise UnsupportedParameter(
            "Tools that may be called are supported together with a JSON schema or a list of choices for the answer, "
            "not with another grammar. Send tool_choice none or required, or another constraint.",
            param="tool_choice",
        )
    # The rule of the calls gets another name, and the new first rule chooses between them and the text.
    grammar = f"start: calls_of_answer | text_of_answer\ncalls_of_answer: {calls.grammar.removeprefix(_START)}"
    return replace(calls, grammar=f"{grammar}\ntext_of_answer: {rule}\n")


def _rule(text: Constraint) -> str | None:
    """Return the body of a Lark rule for a constraint, or None if there is none."""
    if text.triggers:
        return None
    match text.kind:
        case "json_schema":
            schema = json.loads(text.grammar)
            # A schema that is true allows any value.
            fields = schema if isinstance(schema, dict) else {}
            return f"%json {json.dumps({**fields, 'x-guidance': {**_COMPACT, 'lenient': text.is_lenient}})}"
        case "choice":
            return " | ".join(json.dumps(choice) for choice in json.loads(text.grammar))
        case _:
            return None
