"""One choice of an answer on its way from events to parts: its parser, its counts, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.errors import EngineFailed, NotReady, WorkerError
from worker_gguf.generation.events import Delta, Finished, TokenLogprob
from worker_gguf.generation.progress import Tally
from worker_gguf.markup.parts import Content, NewParser, Part, Reasoning, ToolCall
from worker_gguf.protocol.rendering import encode

__all__ = ["Pair", "ParsedChoice", "WrittenCall", "arguments_object", "blocks", "joined", "joined_pairs"]

# An answer has so many levels around the arguments of a call at most, and is encoded further down the stack.
_LEVELS_AROUND = 64

Pair = tuple[Part, Sequence[TokenLogprob]]
"""A part, and the log-probabilities of the tokens that came with it."""


class WrittenCall(Struct, frozen=True):
    """A whole tool call. `arguments` is a JSON text."""

    id: str
    name: str
    arguments: str


class ParsedChoice:
    """Splits the text of one choice into parts, and counts. `finished` is None until its end."""

    def __init__(self, new_parser: NewParser) -> None:
        self.tally = Tally()
        self.finished: Finished | None = None
        self._parser = new_parser()

    @property
    def is_reasoning(self) -> bool:
        """Whether the text that comes next is reasoning."""
        return self._parser.is_reasoning

    @property
    def reason(self) -> str:
        """The finish reason: `tool_calls` if it ended by itself and has calls that are all complete."""
        assert self.finished is not None, "the choice has not ended"
        reason = self.finished.reason
        # A call that was cut off, by a stop text for one, is no reason to call anything.
        is_call = reason == "stop" and self.tally.tool_calls > 0 and not self._parser.has_half_call
        return "tool_calls" if is_call else reason

    def feed(self, delta: Delta) -> Sequence[Part]:
        """Parse the next text, and count its tokens as reasoning if it begins in the reasoning."""
        if self._parser.is_reasoning:
            self.tally.reasoning_tokens += len(delta.tokens)
        parts = self._parser.feed(delta.text)
        for part in parts:  # written out, because this runs for every token
            if type(part) is ToolCall:
                return self._noted(parts)
        return parts

    def rest(self) -> Sequence[Part]:
        """Return the parts of the text that the parser has held back, at the end of the answer."""
        return self._noted(self._parser.end())

    def finish(self, event: Finished) -> WorkerError | None:
        """Note the end of the choice. Returns the error that ended it, or None."""
        self.finished = event
        match event.reason:
            case "stop" | "length":
                return None
            case "cancelled":
                return event.error or NotReady("The answer was cancelled before its end. Send the request again.")
            case "error":
                return event.error or EngineFailed("The answer failed before its end. Send the request again.")

    def _noted(self, parts: Sequence[Part]) -> Sequence[Part]:
        """Count the calls among new parts, and divide the first piece of each: its name comes before its arguments."""
        noted: list[Part] = []
        for part in parts:
            if not isinstance(part, ToolCall):
                noted.append(part)
                continue
            if part.name is not None:
                self.tally.tool_calls += 1
                noted.append(part._replace(arguments=""))
            if part.arguments:
                noted.append(ToolCall(part.number, None, None, part.arguments))
        return noted


def arguments_object(text: str) -> dict[str, Any]:
    """Return the arguments of a call as an object that is JSON. What is no object is its only field."""
    try:
        value = json.loads(text or "{}")
        around = value
        for _ in range(_LEVELS_AROUND):
            around = [around]
        encode(around)  # Python also reads NaN and 1e999, which are no JSON
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, dict) else {"arguments": value}


def joined(parts: Sequence[Part]) -> list[Part]:
    """Join neighbouring parts of one kind, so that the text of one step is one event."""
    return [_one(stretch) for stretch in _stretches(parts)]


def joined_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """Join neighbouring parts of one kind, and the log-probabilities that came with them."""
    result: list[Pair] = []
    at = 0
    for stretch in _stretches([part for part, _ in pairs]):
        logprobs = [logprob for _, own in pairs[at : at + len(stretch)] for logprob in own]
        result.append((_one(stretch), logprobs))
        at += len(stretch)
    return result


def _stretches(parts: Sequence[Part]) -> list[list[Part]]:
    """Divide parts into stretches of one kind. A call that begins is one of its own."""
    result: list[list[Part]] = []
    last: Part | None = None
    for part in parts:
        if type(part) is type(last) and not (isinstance(part, ToolCall) and _begins(part, last)):
            result[-1].append(part)
        else:
            result.append([part])
        last = part
    return result


def _begins(part: ToolCall, last: Part | None) -> bool:
    return part.name is not None or (isinstance(last, ToolCall) and last.name is not None)


def _one(parts: Sequence[Part]) -> Part:
    """Return the parts of a stretch as one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    text = "".join(part.arguments if isinstance(part, ToolCall) else part.text for part in parts)
    return first._replace(arguments=text) if isinstance(first, ToolCall) else first._replace(text=text)


def blocks(parts: Sequence[Part]) -> list[Content | Reasoning | WrittenCall]:
    """Join the parts of a whole answer to texts, stretches of reasoning and calls, in the order of the answer."""
    result: list[Content | Reasoning | WrittenCall] = []
    places: dict[int, int] = {}
    for part in joined(parts):
        if not isinstance(part, ToolCall):
            if part.text:
                result.append(part)
        elif part.name is not None:
            places[part.number] = len(result)
            result.append(WrittenCall(part.id or "", part.name, part.arguments))
        else:
            call = result[places[part.number]]
            assert isinstance(call, WrittenCall)
            result[places[part.number]] = replace(call, arguments=call.arguments + part.arguments)
    return result
