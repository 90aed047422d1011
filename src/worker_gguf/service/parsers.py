"""Chooses the parser of an answer: with or without tools, and with the reasoning where the request wants it."""

from __future__ import annotations

from collections.abc import Sequence

from worker_gguf.markup.parts import NewParser, Part, PartsParser, Reasoning
from worker_gguf.markup.tool import Tool
from worker_gguf.protocol.reasoning import ReasoningRequest
from worker_gguf.service.markups import TemplateMarkup

__all__ = ["InBoth", "WithoutReasoning", "parser_for"]


class WithoutReasoning:
    """Leaves the reasoning out of the parts of another parser."""

    def __init__(self, parser: PartsParser) -> None:
        self._parser = parser

    @property
    def is_reasoning(self) -> bool:
        return self._parser.is_reasoning

    def feed(self, text: str) -> Sequence[Part]:
        return _without_reasoning(self._parser.feed(text))

    def end(self) -> Sequence[Part]:
        return _without_reasoning(self._parser.end())


class InBoth:
    """Returns the reasoning both apart and in the content, where it stays with its marks, as the model writes it.

    `apart` splits the text, and `together` leaves the reasoning in the content.
    """

    def __init__(self, apart: PartsParser, together: PartsParser) -> None:
        self._apart = apart
        self._together = together

    @property
    def is_reasoning(self) -> bool:
        return self._apart.is_reasoning

    def feed(self, text: str) -> Sequence[Part]:
        return [*_only_reasoning(self._apart.feed(text)), *self._together.feed(text)]

    def end(self) -> Sequence[Part]:
        return [*_only_reasoning(self._apart.end()), *self._together.end()]


def parser_for(markup: TemplateMarkup, prompt: str, tools: Sequence[Tool], reasoning: ReasoningRequest) -> NewParser:
    """Return what creates the parser of one choice. Calls are looked for only if there are `tools`."""

    def apart() -> PartsParser:
        return markup.parser(prompt, tools)

    def together() -> PartsParser:
        return markup.parser(prompt, tools, splits_reasoning=False)

    match reasoning.form:
        case "content":
            return together
        case "both":
            return lambda: InBoth(apart(), together())
        case "apart":
            return (lambda: WithoutReasoning(apart())) if reasoning.is_hidden else apart


def _without_reasoning(parts: Sequence[Part]) -> Sequence[Part]:
    return [part for part in parts if not isinstance(part, Reasoning)]


def _only_reasoning(parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if isinstance(part, Reasoning)]
