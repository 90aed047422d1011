"""Turns a conversation into the text of its prompt, and finds out how the answer to it will be written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.engine.request import Constraint, Thinking
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.parts import NewParser
from worker_gguf.markup.stated_format import stated_format
from worker_gguf.markup.tool import Tool
from worker_gguf.protocol.calls import ChatCall
from worker_gguf.protocol.tools import NO_TOOLS, ToolRequest
from worker_gguf.service.answer_constraint import answer_constraint
from worker_gguf.service.image_marks import MEDIA, ImageMarks
from worker_gguf.service.markups import Markups
from worker_gguf.service.parsers import parser_for
from worker_gguf.service.stated_tools import with_calls_as_text, with_instructions
from worker_gguf.service.thinking import thinking_variables, with_budget
from worker_gguf.template.chat_template import ChatTemplate, ChatTemplates

__all__ = ["Conversations", "RenderedChat"]


class RenderedChat(Struct, frozen=True):
    """The text of a prompt, and how its answer is written.

    `pieces` are the parts of the text before, between and after `images`, which are places in the call's images.
    `thinking` and `shown` are those of a GenerationRequest, and `constraint` returns what the answer must match,
    which takes a while to build. `banned` are tokens that must not be drawn. `ignored` has the names of parameters
    without effect for this template.
    """

    text: str
    new_parser: NewParser
    thinking: Thinking | None
    constraint: Callable[[], Constraint | None]
    shown: frozenset[int]
    banned: tuple[int, ...]
    ignored: tuple[str, ...]
    pieces: tuple[str, ...]
    images: tuple[int, ...] = ()


class Conversations:
    """Renders the conversations of one model. Thread-safe."""

    def __init__(self, templates: ChatTemplates, markups: Markups) -> None:
        self._templates = templates
        self._markups = markups
        self._waiting: set[object] = set()  # those who wait for an examination; any thread may change it

    @property
    def template_source(self) -> str:
        """The source of the template of conversations without tools."""
        return self._templates.default.source

    def render(self, call: ChatCall) -> RenderedChat:
        """Render the conversation of a call. Raises TemplateError or UnsupportedParameter."""
        tools, use = call.tools, call.tools.use
        template = self._templates.for_tools(tools.definitions or None)
        known = self._markups.of(template)
        banned = self._call_starts(known.markup.format) if tools.offered and use is None else ()
        if tools.offered and use is None and not banned and not any(map(_is_of_a_call, call.messages)):
            # Nothing else keeps the model from calling a tool that it knows.
            return self.render(replace(call, tools=NO_TOOLS))
        variables, unmet = thinking_variables(template.shape.thinking, call)
        marks = ImageMarks()
        messages = marks.put(call.messages) if call.images else list(call.messages)
        text = _prompt(template, known.markup.format, call, messages, variables)
        pieces, images = marks.split(text) if call.images else ((text,), ())
        text = MEDIA.join(pieces)
        # Without the beginning of an answer, what a user wrote last is no part of it.
        begun = text if _begins_answer(call, variables) else ""
        thinking, ignored = with_budget(known.markup.thinking(begun), call.reasoning, unmet)
        asked = call.options.constraint
        is_guided = use is not None or asked is not None or (thinking is not None and thinking.budget is not None)
        return RenderedChat(
            text=text,
            # A stream has the pieces of a call before it is known whether the rest will come.
            new_parser=parser_for(
                known.markup, begun, use, call.reasoning, holds_calls=call.holds_calls or not call.options.stream
            ),
            thinking=thinking if is_guided else None,
            constraint=lambda: answer_constraint(known.markup, use, asked, self._markups.control_token),
            shown=known.shown_without_tools if use is None else known.shown,
            banned=banned,
            ignored=ignored,
            pieces=pieces,
            images=images,
        )

    def examine_templates(self) -> None:
        """Begin to find how the model writes with each template, so that the first request need not wait for it."""
        for template in (self._templates.default, self._templates.tool_use):
            if template is not None:
                self._markups.find(template)

    async def examined(self, call: ChatCall) -> None:
        """Return when the template of a call is examined. Those who wait for it go on in the order of their calls."""
        found = self._markups.find(self._templates.for_tools(call.tools.definitions or None))
        # Others may still wait although it is done: their event loop has not resumed them yet.
        if found.done() and not self._waiting:
            return
        waiting = object()
        self._waiting.add(waiting)
        try:
            await asyncio.shield(asyncio.wrap_future(found))
        finally:
            self._waiting.remove(waiting)

    def settle(self) -> None:
        """Wait until no thread examines a template any more."""
        self._markups.settle()

    def _call_starts(self, call_format: CallFormat) -> tuple[int, ...]:
        """Return the tokens that begin a call and nothing else."""
        if call_format.only_at_start or call_format.must_be_stated:
            return ()
        tokens = map(self._markups.leading_marker, (call_format.trigger, *call_format.other_starts))
        return tuple(dict.fromkeys(token for token in tokens if token is not None))


def _is_of_a_call(message: Mapping[str, Any]) -> bool:
    return message.get("role") == "tool" or bool(message.get("tool_calls"))


def _begins_answer(call: ChatCall, variables: Mapping[str, Any]) -> bool:
    """Return whether the prompt ends with the beginning of an answer. Variables may say so, too."""
    begins = variables.get("add_generation_prompt", call.add_generation_prompt)
    return bool(begins or variables.get("continue_final_message", call.continue_final_message))


def _prompt(
    template: ChatTemplate,
    call_format: CallFormat,
    call: ChatCall,
    messages: list[Mapping[str, Any]],
    variables: Mapping[str, Any],
) -> str:
    tools = call.tools
    knows_tools = not call_format.must_be_stated
    if not knows_tools:
        messages = with_calls_as_text(messages)
    if tools.use is not None and (not knows_tools or call_format.must_list_tools):
        messages = with_instructions(messages, stated_format(_as_sent(tools), call_format))
    return template.prompt(
        messages,
        tools=list(tools.definitions) or None if knows_tools else None,
        add_generation_prompt=call.add_generation_prompt,
        continue_final_message=call.continue_final_message,
        variables=variables,
    )


def _as_sent(tools: ToolRequest) -> list[Tool]:
    """Return the tools with the schemas that the client wrote, and not those for a grammar."""
    schemas = (definition["function"]["parameters"] for definition in tools.definitions)
    return [replace(tool, parameters=schema) for tool, schema in zip(tools.offered, schemas, strict=True)]
