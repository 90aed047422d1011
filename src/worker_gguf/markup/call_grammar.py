"""The grammar that holds a model to calls of the offered tools, made from the format of its calls.

Where a call is required, the grammar describes the whole answer. Else a call begins with a trigger, and the grammar
describes what follows it. Names and arguments are what the tools allow; white space between the parts may vary as the
parser reads it, but not without end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from msgspec.structs import replace

from worker_gguf.engine.request import Constraint
from worker_gguf.errors import InvalidRequest
from worker_gguf.markup.call_bodies import arguments_json, call_bodies
from worker_gguf.markup.call_format import CallFormat, Channels, without_name
from worker_gguf.markup.closed_schema import closed
from worker_gguf.markup.lark import LarkGrammar, either, literal, optional
from worker_gguf.markup.marks import Marks
from worker_gguf.markup.schema_keywords import without_annotations
from worker_gguf.markup.tool import Tool, ToolUse

__all__ = ["call_constraint"]

_SPACES = ("", " ", "\n")
_NOTHING = {"type": "object", "additionalProperties": False}


def call_constraint(form: CallFormat, use: ToolUse, token_of: Callable[[str], int | None]) -> Constraint:
    """Return the constraint that holds an answer to calls of the tools of `use`.

    `token_of` returns the id of a control token by its text, and None for any other text.

    After a trigger come all calls of a section. Where calls stand alone, it is one call, and the next one has a trigger
    again: then nothing here keeps an answer to one call, which `use.is_parallel` may ask for.

    Raises InvalidRequest if a tool cannot be written in this format, or if it is strict and its schema cannot be
    guaranteed there; ValueError if there are no tools or the format has no calls.
    """
    if not use.tools or form.syntax is None:
        raise ValueError("A constraint on calls needs tools and a format of calls.")
    try:
        return _constraint(form, use, token_of)
    except RecursionError:
        raise InvalidRequest("The schema of a tool is nested too deeply.", param="tools") from None


def _constraint(form: CallFormat, use: ToolUse, token_of: Callable[[str], int | None]) -> Constraint:
    by_name = {tool.name: tool for tool in use.tools}
    tools = tuple(replace(tool, parameters=closed(without_annotations(tool.parameters))) for tool in by_name.values())
    grammar = LarkGrammar()
    marks = Marks(grammar, token_of)
    if form.channels is not None:
        return _in_channels(grammar, marks, form.channels, tools, is_required=use.is_required)
    names = form.content_names if not use.is_required else ()
    if form.syntax == "json_object":
        tools += tuple(Tool(name, _NOTHING) for name in names)
        names = ()
    calls = _Calls(grammar, marks, form, tools, is_parallel=use.is_parallel and form.is_parallel)
    if use.is_required:
        return Constraint("lark", grammar.text(calls.whole()))
    if names:
        return Constraint("lark", grammar.text(calls.messages(names[0])))
    triggers = _triggers(form)
    return Constraint("lark", grammar.text(calls.after(triggers.place)), triggers.texts, form.only_at_start)


class _Triggers(NamedTuple):
    """The texts that begin a call, and the place in the format where all of them end."""

    texts: tuple[str, ...]
    place: Literal["section", "list", "object", "call"]


def _triggers(form: CallFormat) -> _Triggers:
    """Return the triggers of a format.

    The same must follow each of them. So where models skip the beginning of a call, the trigger is the text that they
    do not skip, and before a bare bracket, what may come before it is a part of the trigger.
    """
    section, start = form.section_start.strip(), without_name(form.call_start)
    others = [other.strip() for other in form.other_starts]
    if not section and not start:
        bracket = "[" if form.is_array else "{"
        skipped = tuple(f"{other}{space}{bracket}" for other in others for space in _SPACES)
        return _Triggers((bracket, *skipped), "list" if form.is_array else "object")
    ends = tuple(other for other in others if start.endswith(other) and other != start)
    if ends:
        return _Triggers((min(ends, key=len),), "call")
    outside = tuple(other for other in others if other not in section + start)
    if section and not (outside and start):
        return _Triggers((section, *outside), "section")
    return _Triggers((start, *outside), "call")


class _Calls:
    """Writes all calls of an answer into one grammar."""

    def __init__(
        self, grammar: LarkGrammar, marks: Marks, form: CallFormat, tools: tuple[Tool, ...], *, is_parallel: bool
    ) -> None:
        self._grammar = grammar
        self._marks = marks
        self._form = form
        self._bodies = call_bodies(grammar, marks, form, len(tools))
        self._calls = grammar.rule(either(self._bodies.body(tool) for tool in tools))
        self._is_parallel = is_parallel
        self._space = f"{marks.space}?"
        core = without_name(form.call_start)
        self._part_of_name = optional(literal(form.call_start.strip()[len(core) :]))
        self._start = self._or_others(core) if core else ""
        # The arguments of tagged calls are followed by the end of the call, which tells where the last of them ends.
        self._call_end = "" if form.values else marks.expression(form.call_end, space_after=False)

    def whole(self) -> str:
        """Return the expression of an answer that is calls."""
        form, marks = self._form, self._marks
        # A model that wraps its content may write an empty one, or end one that the prompt has begun.
        # One that thinks may end its thinking though it has not begun it, where a mark tells that a call begins.
        has_mark = bool(form.section_start.strip() or self._start) and not form.content_names
        before = (*form.reasoning_ends[: int(has_mark)], form.content_start, form.content_end)
        content = [optional(marks.expression(mark)) for mark in before]
        ignored = [optional(marks.expression(mark, space_after=False)) for mark in form.ignored]
        if form.content_names and form.syntax == "json":
            calls = self._calls_after_prompt()
        elif form.section_start.strip():
            calls = f"{self._or_others(form.section_start)} {self._all()} {self._section_end()}"
        elif self._start:
            calls = self._all()
        else:
            calls = f"{self._space} {optional(self._or_others())} {self._all()} {optional(self._section_end())}"
        return " ".join([*content, calls, *ignored, self._space])

    def _calls_after_prompt(self) -> str:
        """Return the expression of calls of which the prompt may have begun the first."""
        one = self._grammar.rule(f"{self._part_of_name} {self._one()}")
        return f"({self._start})? {one}" + (f" ({self._start} {one})*" if self._is_parallel else "")

    def after(self, place: str) -> str:
        """Return the expression of what follows a trigger that ends at this place of the format."""
        match place:
            case "section":
                return f"{self._space} {self._all()} {self._section_end()}"
            case "list":
                return self._list(bracket="")
            case "object":
                return f"{self._bodies.after_brace} {self._calls} {self._bodies.closing} {self._call_end}"
            case _:
                return f"{self._space} {self._part_of_name} {self._one()}"

    def messages(self, content_name: str) -> str:
        """Return the expression of an answer of messages, each a call or content, that begins after the first mark."""
        marks, form = self._marks, self._form
        message = self._grammar.reserve()
        mark = marks.terminal(form.call_start)
        head = f"{literal(content_name)} {marks.expression(form.arguments_start, space_after=False)}"
        content = self._grammar.rule(f"/(?s:.*)/ {mark}", "lazy")
        rest = self._grammar.terminal(f"~(/(?s:.*)/ {mark} /(?s:.*)/) & /(?s:.+)/")
        further = f"({self._space} {self._grammar.terminal(mark)} {message})?"
        self._grammar.define(
            message, f"{head} {content} {message} | {head} ({rest})? | {self._part_of_name} {self._one()} {further}"
        )
        return f"{self._space} ({self._grammar.terminal(mark)})? {message}"

    def _or_others(self, *marks: str) -> str:
        """Return the expression of one of the marks, or of a text that models write in its place."""
        if not marks:
            others = self._form.other_starts
        elif self._form.section_start and marks[0] != self._form.section_start:
            others = ()
        else:
            others = tuple(o for o in self._form.other_starts if marks[0].endswith(o) or o not in marks[0])
        options = [self._marks.expression(mark) for mark in (*marks, *others)]
        return either(options) if options else ""

    def _section_end(self) -> str:
        return self._marks.expression(self._form.section_end, space_after=False)

    def _all(self) -> str:
        """Return the expression of all calls, with the brackets of a list."""
        if self._form.is_array:
            return self._list(bracket=f'"[" {self._space}')
        one = self._grammar.rule(f"{self._start} {self._part_of_name} {self._one()}")
        separator = self._marks.expression(self._form.separator) or ("" if self._start else self._space)
        return f"{one} ({separator} {one})*" if self._is_parallel else one

    def _list(self, bracket: str) -> str:
        one = self._grammar.rule(self._one())
        comma = self._grammar.terminal(f'{self._space} "," {self._space}')
        further = f"({comma} {one})*" if self._is_parallel else ""
        end = self._grammar.terminal(f'{self._space} "]"')
        return f"{bracket or self._space} {one} {further} {end}"

    def _one(self) -> str:
        """Return the expression of one call after its start."""
        return f"{self._bodies.opening} {self._calls} {self._bodies.closing} {self._call_end}"


def _in_channels(
    grammar: LarkGrammar, marks: Marks, form: Channels, tools: tuple[Tool, ...], *, is_required: bool
) -> Constraint:
    """Return the constraint for a model that writes messages in channels. The recipient is the trigger.

    The recipient comes after the role, with the channel after it, or after the channel. What comes before it is not
    known after the trigger.
    """
    names = either(map(literal, (form.call_channel, *form.reasoning)))
    channel = f"{marks.expression(form.channel)} {names}"
    text = f"{_content_type(marks, form)} {marks.expression(form.message)}"
    call, rest = grammar.reserve(), grammar.reserve()
    grammar.define_with_number(rest, [f"{text} %if bit_set(0)", f"{channel} {text} %if bit_clear(0)"])
    grammar.define_with_number(
        call, [f"{literal(tool.name)} {rest}::_ {arguments_json(grammar, tool)}" for tool in tools]
    )
    if not is_required:
        return Constraint("lark", grammar.text(f"{call}::0x0 | {call}::0x1"), (form.recipient,))
    header = optional(f"{marks.expression(form.start)} {literal(form.role)}")
    recipient = literal(form.recipient)
    calls = f"{header} ({channel} {recipient} {call}::0x1 | {recipient} {call}::0x0)"
    return Constraint("lark", grammar.text(calls))


def _content_type(marks: Marks, form: Channels) -> str:
    """Return the expression of a message's content type, of which models leave out the mark or all of it."""
    word = re.search(r"\w+\Z", form.content_type)
    words = [f"{marks.space} {literal(word.group())}"] if word else []
    return optional(either([marks.expression(form.content_type), *words])) if form.content_type else ""
