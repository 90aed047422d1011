"""How the model of one chat template writes, for those who ask it and read its answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from worker_gguf.engine.request import Constraint, Thinking
from worker_gguf.errors import TemplateError
from worker_gguf.markup.call_format import CallFormat, Channels
from worker_gguf.markup.kept_constraints import KeptConstraints
from worker_gguf.markup.parser import AnswerParser
from worker_gguf.markup.probe import probe_format, with_think_tags
from worker_gguf.markup.tool import Tool, ToolUse

__all__ = ["Markup"]

# What a control token may look like within a marker.
_TOKEN = re.compile(r"<[^<>\s]+>|\[/?\w+\]|｜[^｜<>\s]+｜|\][^\w\s]+\w+[^\w\s]*\[")
_THINK_TAGS = ("<think>", "</think>")
_QUESTION = {"role": "user", "content": "Hello"}


class Markup:
    """The markup of one chat template. It is found when it is first needed, by a few dozen renderings."""

    def __init__(self, find_format: Callable[[], CallFormat], find_turn_start: Callable[[], str]) -> None:
        self._find_format = find_format
        self._find_turn_start = find_turn_start
        self._constraints = KeptConstraints()

    @classmethod
    def of_template(
        cls, source: str, render: Callable[..., str], has_token: Callable[[str], bool] = lambda _: False
    ) -> Markup:
        """Return the markup of the template with this text.

        `render(messages, tools=..., add_generation_prompt=..., **variables)` renders it, or raises TemplateError.
        `has_token` tells whether a text is one token of the model: then it may think though the template shows nothing
        of it, as models do that were tuned to think.
        """

        def find_format() -> CallFormat:
            form = probe_format(source, render)
            return with_think_tags(form) if all(has_token(tag) for tag in _THINK_TAGS) else form

        return cls(find_format, lambda: _turn_start(render))

    @classmethod
    def of_format(cls, form: CallFormat, turn_start: str = "") -> Markup:
        """Return the markup of a known format. `turn_start` is what a prompt has before each turn of the assistant."""
        return cls(lambda: form, lambda: turn_start)

    @cached_property
    def format(self) -> CallFormat:
        return self._find_format()

    @cached_property
    def markers(self) -> tuple[str, ...]:
        """The texts that may be control tokens. Their text must be shown to the parser, which takes it out again."""
        return tuple(dict.fromkeys(_tokens(self.format)))

    def parser(
        self, prompt: str, tools: Sequence[Tool] = (), *, splits_reasoning: bool = True, holds_calls: bool = False
    ) -> AnswerParser:
        """Return the parser of an answer to this prompt. Without tools, calls are not looked for.

        Without `splits_reasoning`, reasoning is part of the content, with its markers. With `holds_calls`, a call is
        one part that comes when it is complete, so an answer that is cut has no half call.
        """
        return AnswerParser(
            self.format,
            self._prompt_end(prompt),
            tools,
            splits_reasoning=splits_reasoning,
            holds_calls=holds_calls,
        )

    def thinking(self, prompt: str) -> Thinking | None:
        """Return where the model thinks in its answer to this prompt, or None if it is no model that thinks."""
        form = self.format
        if form.channels is not None:
            return _thinking_in_channel(form.channels, self.parser(prompt).is_reasoning)
        if not form.reasoning_ends:
            return None
        # The end that the template writes is the one to write by force; a model may leave out the white space.
        ends = [form.reasoning_ends[0], *(end.strip() for end in form.reasoning_ends)]
        return Thinking(
            form.reasoning_start.strip(), tuple(dict.fromkeys(ends)), is_open=self.parser(prompt).is_reasoning
        )

    def call_constraint(self, use: ToolUse, token_of: Callable[[str], int | None]) -> Constraint:
        """Return the constraint that holds an answer to these calls. Those of the last requests are kept.

        `token_of` returns the id of a control token by its text, else None. Raises InvalidRequest if a tool cannot be
        written in this format.
        """
        return self._constraints.of(self.format, use, token_of)

    @cached_property
    def _turn_start(self) -> str:
        turn_start = self._find_turn_start()
        form = self.format
        for marker in (form.reasoning_start, *form.reasoning_ends, form.content_start, form.call_start):
            if marker.strip():
                turn_start = turn_start.partition(marker.strip())[0]
        return turn_start.rstrip()

    def _prompt_end(self, prompt: str) -> str:
        """Return the part of a prompt that belongs to the answer."""
        if self.format.channels is not None:
            return prompt[max(prompt.rfind(self.format.channels.start), 0) :]
        if self._turn_start:
            _, found, end = prompt.rpartition(self._turn_start)
            if found:
                return end
        longest = max((len(marker) for marker in (self.format.reasoning_start, *self.format.reasoning_ends)), default=0)
        return prompt.rstrip()[-max(longest, len(self.format.call_start), 1) :]


def _turn_start(render: Callable[..., str]) -> str:
    """Return what a prompt has before the answer, "" if it has nothing there."""
    try:
        question = render([_QUESTION], add_generation_prompt=False)
        prompt = render([_QUESTION], add_generation_prompt=True)
    except TemplateError:
        return ""
    return prompt.removeprefix(question) if prompt.startswith(question) else ""


def _thinking_in_channel(channels: Channels, is_open: bool) -> Thinking:
    start = f"{channels.channel}{channels.reasoning[0]}{channels.message}"
    return Thinking(start, channels.ends[:1], is_open=is_open)


def _tokens(form: CallFormat) -> Iterator[str]:
    for text in _texts(form):
        yield text.strip()
        yield from _TOKEN.findall(text)


def _texts(form: CallFormat) -> Iterator[str]:
    """Yield the texts of a format that are longer than one character."""
    for part in (form, form.values, form.channels):
        for field in part.__struct_fields__ if part is not None else ():
            value = getattr(part, field)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and len(text.strip()) > 1 and field not in ("id_pattern", "syntax"):
                    yield text
