"""Chooses the parser of an answer: with or without tools, and with the reasoning where the request wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker_gguf.markup.parts import NewParser, Part, PartsParser, Reasoning, ToolCall
from worker_gguf.markup.tool import ToolUse
from worker_gguf.protocol.reasoning import ReasoningRequest
from worker_gguf.service.markups import TemplateMarkup

__all__ = ["InBoth", "Picking", "only_reasoning", "parser_for", "with_first_call", "without_reasoning"]


Pick = Callable[[Sequence[Part]], Sequence[Part]]


class Picking:
    """Returns some of the parts of another parser."""

    def __init__(self, parser: PartsParser, pick: Pick) -> None:
        self._parser = parser
        self._pick = pick

    @property
    def is_reasoning(self) -> bool:
        return self._parser.is_reasoning

    @property
    def has_half_call(self) -> bool:
        return self._parser.has_half_call

    def feed(self, text: str) -> Sequence[Part]:
        return self._pick(self._parser.feed(text))

    def end(self) -> Sequence[Part]:
        return self._pick(self._parser.end())


class InBoth:
    """Returns the reasoning both apart and in the content, where it stays with its marks, as the model writes it.

    `apart` splits the text, and `together` leaves the reasoning in the content.
    """

    def __init__(self, apart: PartsParser, together: PartsParser) -> None:
        self._apart = Picking(apart, only_reasoning)
        self._together = together

    @property
    def is_reasoning(self) -> bool:
        return self._apart.is_reasoning

    @property
    def has_half_call(self) -> bool:
        return self._together.has_half_call

    def feed(self, text: str) -> Sequence[Part]:
        return [*self._apart.feed(text), *self._together.feed(text)]

    def end(self) -> Sequence[Part]:
        return [*self._apart.end(), *self._together.end()]


def parser_for(
    markup: TemplateMarkup, prompt: str, use: ToolUse | None, reasoning: ReasoningRequest, *, holds_calls: bool = False
) -> NewParser:
    """Return what creates the parser of one choice. Calls are looked for only if the answer may have them.

    With `holds_calls`, an answer that is cut has no half call.
    """

    def new(*, splits_reasoning: bool) -> PartsParser:
        if use is None:
            return markup.parser(prompt, splits_reasoning=splits_reasoning)
        parser = markup.parser(prompt, use.tools, splits_reasoning=splits_reasoning, holds_calls=holds_calls)
        return parser if use.is_parallel else Picking(parser, with_first_call)

    def apart() -> PartsParser:
        return new(splits_reasoning=True)

    def together() -> PartsParser:
        return new(splits_reasoning=False)

    match reasoning.form:
        case "content":
            return together
        case "both":
            return lambda: InBoth(apart(), together())
        case "apart":
            return (lambda: Picking(apart(), without_reasoning)) if reasoning.is_hidden else apart


def with_first_call(parts: Sequence[Part]) -> Sequence[Part]:
    """Leave out all calls but the first one.

    In some formats, each call begins anew after free text. There, no grammar keeps the model from a second one.
    """
    return [part for part in parts if not isinstance(part, ToolCall) or part.number == 0]


def without_reasoning(parts: Sequence[Part]) -> Sequence[Part]:
    return [part for part in parts if not isinstance(part, Reasoning)]


def only_reasoning(parts: Sequence[Part]) -> Sequence[Part]:
    return [part for part in parts if isinstance(part, Reasoning)]
