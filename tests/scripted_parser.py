"""A parser for tests, whose marks are single characters."""

from __future__ import annotations

import json
from collections.abc import Sequence

from worker_gguf.markup.parts import Content, Part, Reasoning, ToolCall

__all__ = ["ScriptedParser"]


class ScriptedParser:
    """Takes `~` for the start and the end of reasoning and `!name(arguments)` for a call; holds `!` back until `)`.

    Arguments that are no JSON are those of half a call.
    """

    def __init__(self) -> None:
        self._held = ""
        self.is_reasoning = False
        self.has_half_call = False
        self._n_calls = 0

    def feed(self, text: str) -> Sequence[Part]:
        parts: list[Part] = []
        for character in text:
            if character == "~":
                self.is_reasoning = not self.is_reasoning
            elif character == ")":
                name, _, arguments = self._held[1:].partition("(")
                self.has_half_call = self.has_half_call or not _is_json(arguments)
                parts.append(ToolCall(self._n_calls, f"call_{self._n_calls}", name, ""))
                parts.append(ToolCall(self._n_calls, None, None, arguments))
                self._n_calls, self._held = self._n_calls + 1, ""
            elif self._held or character == "!":
                self._held += character
            else:
                parts.append(Reasoning(character) if self.is_reasoning else Content(character))
        return parts

    def end(self) -> Sequence[Part]:
        held, self._held = self._held, ""
        return [Content(held)] if held else []


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
