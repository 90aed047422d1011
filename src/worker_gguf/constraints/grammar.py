"""Placeholder until the branch with the real one is merged."""

from __future__ import annotations

import json

from worker_gguf.engine.request import Constraint

__all__ = ["compiled_text"]


def compiled_text(constraint: Constraint) -> str:
    from llguidance import LLMatcher

    match constraint.kind:
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(
                json.loads(constraint.grammar),
                overrides={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
            )
        case "lark":
            return LLMatcher.grammar_from_lark(constraint.grammar)
        case "regex":
            return LLMatcher.grammar_from_regex(constraint.grammar)
        case "choice":
            return "start: " + " | ".join(map(json.dumps, json.loads(constraint.grammar)))
    raise NotImplementedError
