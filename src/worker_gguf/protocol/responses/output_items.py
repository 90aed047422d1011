"""The items of a response's output, and the events in which one item grows.

The order of the events is that of OpenAI's API (platform.openai.com/docs/api-reference/responses-streaming).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker_gguf.generation.events import TokenLogprob
from worker_gguf.markup.parts import Content, Part, Reasoning, ToolCall
from worker_gguf.protocol.choice import WrittenCall
from worker_gguf.protocol.openai.logprobs import chat_logprobs
from worker_gguf.protocol.rendering import encode

__all__ = ["Events", "GrowingItem", "Item", "item_of"]

Item = dict[str, Any]
Block = Content | Reasoning | WrittenCall


def item_of(block: Block, suffix: str, status: str, logprobs: Sequence[TokenLogprob] = ()) -> Item:
    """Return an item. Its id ends with `suffix`."""
    match block:
        case Content(text):
            content = [_text_part(text, logprobs)] if status != "in_progress" else []
            head = {"id": f"msg_{suffix}", "type": "message", "status": status, "role": "assistant"}
            return {**head, "content": content}
        case Reasoning(text):
            content = [{"type": "reasoning_text", "text": text}] if text else []
            return {"id": f"rs_{suffix}", "type": "reasoning", "status": status, "summary": [], "content": content}
        case WrittenCall(call_id, name, arguments):
            head = {"id": f"fc_{suffix}", "type": "function_call", "status": status}
            return {**head, "call_id": call_id, "name": name, "arguments": arguments}


class Events:
    """Writes server-sent events and numbers them."""

    def __init__(self) -> None:
        self._n = 0

    def write(self, kind: str, **fields: Any) -> bytes:
        return _head(kind, fields) + self.end()

    def end(self) -> bytes:
        """Return the end of an event, which has its number."""
        self._n += 1
        return b'"sequence_number":%d}\n\n' % (self._n - 1)


class GrowingItem:
    """An item of a streamed response, from its first event to its last."""

    def __init__(self, events: Events, first: Part, suffix: str, index: int) -> None:
        """`first` is the first part, which is added later. `index` is the place of the item in the output."""
        self._events = events
        self._first = first
        self._suffix, self._index = suffix, index
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._place: dict[str, Any] = {"item_id": self.item("in_progress")["id"], "output_index": index}
        if not self._is_call:
            self._place["content_index"] = 0
        # Streaming must be fast, so the bytes around the text are written once.
        self._before = _head(f"{self._content}.delta", self._place) + b'"delta":'
        self._after = b',"logprobs":[],' if isinstance(first, Content) else b","

    @property
    def _is_call(self) -> bool:
        return isinstance(self._first, ToolCall)

    @property
    def _content(self) -> str:
        """The name of what grows, in the names of events."""
        match self._first:
            case Content():
                return "output_text"
            case Reasoning():
                return "reasoning_text"
            case ToolCall():
                return "function_call_arguments"

    def takes(self, part: Part) -> bool:
        """Return whether a part continues this item."""
        return type(part) is type(self._first) and not (isinstance(part, ToolCall) and part.name is not None)

    def begin(self) -> bytes:
        added = self._events.write("output_item.added", output_index=self._index, item=self.item("in_progress"))
        if self._is_call:
            return added
        return added + self._events.write("content_part.added", **self._place, part=self._part())

    def add(self, part: Part, logprobs: Sequence[TokenLogprob]) -> bytes:
        text = part.arguments if isinstance(part, ToolCall) else part.text
        if not text and not logprobs:
            return b""
        self._pieces.append(text)
        after = self._after
        if logprobs:
            self._logprobs += logprobs
            after = b',"logprobs":' + encode(_stream_logprobs(logprobs)).encode() + b","
        return b"%b%b%b%b" % (self._before, encode(text).encode(), after, self._events.end())

    def close(self, status: str) -> bytes:
        item = self.item(status)
        events = self._events
        match self._first:
            case Content():
                shown = _stream_logprobs(self._logprobs)
                done = events.write("output_text.done", **self._place, text=self._text, logprobs=shown)
            case Reasoning():
                done = events.write("reasoning_text.done", **self._place, text=self._text)
            case ToolCall(name=name):
                done = events.write(f"{self._content}.done", **self._place, name=name, arguments=self._text)
        if not self._is_call:
            done += events.write("content_part.done", **self._place, part=self._part())
        return done + events.write("output_item.done", output_index=self._index, item=item)

    def item(self, status: str) -> Item:
        """Return the item as it is so far."""
        match self._first:
            case Content():
                block: Block = Content(self._text)
            case Reasoning():
                block = Reasoning(self._text)
            case ToolCall(_, call_id, name):
                block = WrittenCall(call_id or "", name or "", self._text)
        return item_of(block, self._suffix, status, self._logprobs)

    @property
    def _text(self) -> str:
        return "".join(self._pieces)

    def _part(self) -> Item:
        if isinstance(self._first, Content):
            return _text_part(self._text, self._logprobs)
        return {"type": "reasoning_text", "text": self._text}


def _text_part(text: str, logprobs: Sequence[TokenLogprob]) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": chat_logprobs(logprobs)}


def _stream_logprobs(logprobs: Sequence[TokenLogprob]) -> list[Item]:
    """Render log-probabilities in the form of events, which is without bytes."""

    def plain(entry: Item) -> Item:
        return {"token": entry["token"], "logprob": entry["logprob"]}

    return [
        plain(entry) | {"top_logprobs": list(map(plain, entry["top_logprobs"]))} for entry in chat_logprobs(logprobs)
    ]


def _head(kind: str, fields: Item) -> bytes:
    """Return the beginning of an event, up to the comma after its fields."""
    name = f"response.{kind}"
    return f"event: {name}\ndata: {encode({'type': name, **fields})[:-1]},".encode()
