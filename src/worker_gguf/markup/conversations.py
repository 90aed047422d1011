"""Renders small conversations with texts that stand nowhere else, the needles, and returns the turn of the assistant.

A template may refuse a conversation or leave a call out of it. So the first thing to find is a shape of the messages
with which a call comes through; all other conversations have that shape.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from worker_gguf.errors import TemplateError

__all__ = [
    "ARGUMENTS",
    "CONTENT",
    "FIRST",
    "ONE_ARGUMENT",
    "OTHER_ARGUMENT",
    "REASONING",
    "SECOND",
    "TWO_ARGUMENTS",
    "Call",
    "Conversations",
    "Render",
    "has_needle",
]

Render = Callable[..., str]
Message = dict[str, Any]

# They begin and end with letters, so that a mark next to one is cut off exactly.
_USER, CONTENT, REASONING, _RESULT = "Needle1537user", "Needle2648text", "Needle3759thought", "Needle4860result"
_NAMES = ("needle_one", "needle_two")
# Nine letters and digits, because Mistral's templates refuse any other id.
_IDS = ("calla7391", "callb8264")
# The keys are in the order of the alphabet, because some templates sort them.
ARGUMENTS: dict[str, Any] = {
    "needlekey_a": "Needle5971first",
    "needlekey_b": 739146,
    "needlekey_c": True,
    "needlekey_d": {"inner": [58213, "Needle6082in"]},
    "needlekey_e": ["Needle7193item", 64908],
    "needlekey_f": 0.5,
    "needlekey_g": 'Needle8204 "quoted" it\'s',
}
ONE_ARGUMENT = {"needlekey_a": "Needle5971first"}
OTHER_ARGUMENT = {"needlekey_a": "Needle9315other"}
TWO_ARGUMENTS = {**ONE_ARGUMENT, "needlekey_b": "Needle9426second"}
# The names by which published templates turn thinking on and off.
_SWITCHES = ("enable_thinking", "thinking", "enable_reasoning", "reasoning")
# The names of a turn's reasoning that templates read. Cohere's is that of a plan before calls.
_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning", "tool_plan")
_BLANKS: tuple[Message, ...] = ({}, {"content": ""}, {"content": None})
_TYPES = {str: "string", int: "integer", bool: "boolean", dict: "object", list: "array", float: "number"}


class Call(NamedTuple):
    """A call of a conversation: the first or the second one."""

    arguments: dict[str, Any]
    number: int = 0

    @property
    def name(self) -> str:
        return _NAMES[self.number]

    @property
    def id(self) -> str:
        return _IDS[self.number]


FIRST, SECOND = Call(ONE_ARGUMENT, 0), Call(OTHER_ARGUMENT, 1)


class _Shape(NamedTuple):
    """The form of the messages with calls, and what comes after them."""

    has_tools: bool = True
    has_parts: bool = False
    has_system: bool = False
    next: Literal["", "tool", "user"] = ""
    as_text: bool = False
    blank: Message = _BLANKS[0]


# Conversations without calls, of which each template should take one.
_FRAMES = (_Shape(), _Shape(has_tools=False), _Shape(has_parts=True), _Shape(has_system=True))


class Conversations:
    """Conversations of one template. Each is rendered once.

    With `has_names_in_ids`, the id of a call is functions.NAME:NUMBER, as Kimi writes it.
    """

    def __init__(self, render: Render) -> None:
        self._render = render
        self._known: dict[str, str | None] = {}
        self._shape = next((shape for shape in _FRAMES if self._takes(shape)), _Shape())
        self.has_names_in_ids = False
        self.has_calls = self._finds_calls()

    @functools.cached_property
    def lists_tools(self) -> bool:
        """Whether the template writes the tools into the prompt."""
        return _NAMES[0] in (self._whole([]) or "")

    @functools.cached_property
    def openings(self) -> tuple[str, str, str]:
        """What the prompt has from the end of the user's message on, up to where the model begins to write.

        By default, with thinking turned on, and with thinking turned off.
        """
        prompts: tuple[Message, ...] = ({}, dict.fromkeys(_SWITCHES, True), dict.fromkeys(_SWITCHES, False))
        texts = [self._rendered([], add_generation_prompt=True, **variables) or "" for variables in prompts]
        return texts[0], texts[1], texts[2]

    def after_content(self, *, is_followed: bool = False) -> str:
        """Return what stands after the text of an answer; with `is_followed`, up to the text of the next message."""
        if not is_followed:
            return (self.turn(content=CONTENT) or "").partition(CONTENT)[2]
        followed = self._rendered([{"role": "assistant", "content": CONTENT}, {"role": "user", "content": _RESULT}])
        return (followed or "").partition(CONTENT)[2].partition(_RESULT)[0]

    def after_calls(self) -> str:
        """Return what stands after the value of a call, "" if the template writes no calls."""
        return (self.turn([FIRST]) or "").rpartition(str(FIRST.arguments["needlekey_a"]))[2] if self.has_calls else ""

    def turn(
        self, calls: Sequence[Call] = (), *, content: str = "", reasoning: str = "", as_part: bool = False
    ) -> str | None:
        """Return the text from the end of the user's message on; None if the template refuses the conversation.

        With `as_part`, the reasoning is a part of the content.
        """
        message: Message = {"role": "assistant", "content": content}
        if calls:
            message |= {"tool_calls": [self._call(call) for call in calls]}
            if not content:
                message = {name: value for name, value in message.items() if name != "content"} | self._shape.blank
        if as_part:
            message["content"] = [{"type": "thinking", "thinking": reasoning}, {"type": "text", "text": content}]
        elif reasoning:
            message |= dict.fromkeys(_REASONING_NAMES, reasoning)
        text = self._rendered([message, *self._following(calls)])
        return text if text is None else text.partition(_RESULT)[0]

    def _takes(self, shape: _Shape) -> bool:
        self._shape = shape
        return self._rendered([]) is not None

    def _finds_calls(self) -> bool:
        """Find a shape in which a call reaches the prompt, and use it from now on. Returns whether there is one."""
        frame = self._shape
        for shape in _shapes(frame):
            self._shape = shape
            text = self.turn([Call(ARGUMENTS)])
            if text is not None and _is_complete(text):
                self._shape = min(self._with_blanks(shape), default=(0, shape), key=lambda pair: pair[0])[1]
                return True
        self._shape = frame
        return False

    def _with_blanks(self, shape: _Shape) -> Iterator[tuple[int, _Shape]]:
        """Yield the shapes with each form of no content, with the length of their text. The shortest one has least of
        what is no call, such as an empty answer after it."""
        for blank in _BLANKS:
            self._shape = shape._replace(blank=blank)
            text = self.turn([Call(ARGUMENTS)])
            if text is not None and _is_complete(text):
                yield len(text), self._shape

    def _call(self, call: Call) -> Message:
        arguments = json.dumps(call.arguments) if self._shape.as_text else call.arguments
        id_ = f"functions.{call.name}:{call.number}" if self.has_names_in_ids else call.id
        return {"id": id_, "type": "function", "function": {"name": call.name, "arguments": arguments}}

    def _following(self, calls: Sequence[Call]) -> list[Message]:
        if self._shape.next == "tool" and calls:
            return [{"role": "tool", "tool_call_id": call.id, "name": call.name, "content": _RESULT} for call in calls]
        return [{"role": "user", "content": _RESULT}] if self._shape.next else []

    def _rendered(self, messages: list[Message], **options: Any) -> str | None:
        """Render what comes after the user's message, and return the text after that message."""
        _, found, after = (self._whole(messages, **options) or "").rpartition(_USER)
        return after if found else None

    def _whole(self, messages: list[Message], *, add_generation_prompt: bool = False, **variables: Any) -> str | None:
        system = [{"role": "system", "content": "Help."}] if self._shape.has_system else []
        conversation = [*system, {"role": "user", "content": _USER}, *messages]
        if self._shape.has_parts:
            conversation = [_with_parts(message) for message in conversation]
        options = {"tools": _TOOLS if self._shape.has_tools else None, "add_generation_prompt": add_generation_prompt}
        key = repr((conversation, options["tools"] is None, add_generation_prompt, variables))
        if key not in self._known:
            try:
                self._known[key] = self._render(conversation, **options, **variables)
            except TemplateError:
                self._known[key] = None
        return self._known[key]


def has_needle(text: str) -> bool:
    """Return whether a text has a needle, so that it was not cut where it should be."""
    return "needle" in text.lower() or any(id_ in text for id_ in _IDS)


def _shapes(frame: _Shape) -> Iterator[_Shape]:
    followers: tuple[Literal["", "tool", "user"], ...] = ("", "tool", "user")
    for has_tools, follower, as_text, blank in itertools.product((True, False), followers, (False, True), _BLANKS):
        yield frame._replace(has_tools=has_tools, next=follower, as_text=as_text, blank=blank)


def _with_parts(message: Message) -> Message:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


# What a text has if the template encoded the arguments twice, or printed them or a message as an object of Python.
_PRINTED = ('\\"needlekey_a', "'needlekey_a': 'Needle", "'tool_calls':", '"tool_calls":')


def _is_complete(text: str) -> bool:
    """Return whether a call has come through: its values are there, and not in a printed object."""
    values = (ARGUMENTS["needlekey_a"], str(ARGUMENTS["needlekey_b"]))
    return all(value in text for value in values) and not any(sign in text for sign in _PRINTED)


def _tool(name: str) -> Message:
    properties = {key: {"type": _TYPES[type(value)], "description": "A value."} for key, value in ARGUMENTS.items()}
    parameters = {"type": "object", "properties": properties, "required": ["needlekey_a"]}
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}}


_TOOLS = [_tool(name) for name in _NAMES]
