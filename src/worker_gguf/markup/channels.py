"""Reads an answer that is a row of messages in channels, as gpt-oss writes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from worker_gguf.markup.call_format import Channels
from worker_gguf.markup.json_call import read_arguments
from worker_gguf.markup.offer import Offer
from worker_gguf.markup.sink import Sink
from worker_gguf.markup.source import NOWHERE, Source, Wait, markers

__all__ = ["ChannelFlow"]

_RECIPIENT = re.compile(r"\bto=(\S+)")
_START, _CHANNEL, _MESSAGE = 0, 1, 2


class ChannelFlow:
    """Reads headers and texts of messages in turn. What a header means is decided by its last channel and recipient."""

    def __init__(
        self, form: Channels, prompt_end: str, source: Source, sink: Sink, offer: Offer, splits_reasoning: bool
    ) -> None:
        self._form = form
        self._source = source
        self._sink = sink
        self._offer = offer
        self._splits_reasoning = splits_reasoning
        self._marks = markers(form.start, form.channel, form.message, *form.ends)
        self._ends = markers(form.start, *form.ends)
        self._next_message = markers(form.start)
        self._role = markers(form.role)
        self._prompt_end = prompt_end.rpartition(form.start)[2]
        self.is_reasoning = False

    def run(self) -> Iterator[None]:
        if self._prompt_end:
            self._source.text = self._prompt_end + self._source.text
        while not self._source.is_over():
            header = yield from self._read_header()
            if header is not None:
                yield from self._read_message(*header)
                self.is_reasoning = False

    def _read_header(self) -> Wait[tuple[str, str] | None]:
        """Read up to the text of the next message; return the role's part and the channel's part of its header."""
        parts = [""]
        while True:
            pieces: list[str] = []
            hit = yield from self._source.until(self._marks, pieces.append)
            parts[-1] = "".join(pieces)
            if hit.number == _MESSAGE:
                return parts[0], parts[-1] if len(parts) > 1 else ""
            if hit.number == NOWHERE:
                self._write_unfinished(parts)
                return None
            if hit.number == _CHANNEL:
                parts.append("")
            else:
                parts = [""]

    def _write_unfinished(self, parts: list[str]) -> None:
        """Pass on what follows the channel's name in a header that never ended, since a model may forget its end."""
        channel, _, text = parts[-1].strip().partition(" ")
        if len(parts) > 1 and channel in self._form.content and text and self._recipient(parts[0], text) is None:
            self._sink.content(text)

    def _recipient(self, role: str, channel: str) -> str | None:
        match = _RECIPIENT.search(role) or _RECIPIENT.search(channel)
        return None if match is None else match.group(1).partition("<")[0]

    def _read_message(self, role: str, channel: str) -> Wait[None]:
        recipient = self._recipient(role, channel)
        name = channel.split()[0].partition("<")[0] if channel.split() else ""
        prefix = self._form.recipient.partition("=")[2]
        if recipient is not None and recipient.startswith(prefix) and self._offer:
            tool = self._offer.name(recipient)
            if tool is not None:
                yield from self._read_call(tool)
                yield from self._read_text(_drop)
                return
        elif recipient is not None and not recipient.startswith(prefix) and self._offer:
            # A message to something that was not offered, such as a built-in tool, is not for the client.
            yield from self._read_text(_drop)
            return
        if name not in self._form.reasoning:
            yield from self._read_text(self._sink.content)
        elif self._splits_reasoning:
            self.is_reasoning = True
            yield from self._read_text(self._sink.reasoning)
        else:
            self.is_reasoning = True
            self._sink.content(f"{self._form.channel}{channel}{self._form.message}")
            self._sink.content((yield from self._read_text(self._sink.content)))

    def _read_call(self, tool: str) -> Wait[None]:
        self._sink.open_call(tool)
        yield from self._source.skip_space()
        last = yield from read_arguments(self._source, self._sink.arguments)
        if last is None:
            self._sink.drop_call()
        else:
            self._sink.arguments(last)
            self._sink.close_call()

    def _read_text(self, write: Callable[[str], object]) -> Wait[str]:
        """Write the text of a message and return the mark that ends it, "" if the answer ends first.

        A text may have such a mark in it. So one counts only if another message or nothing follows.
        """
        while True:
            hit = yield from self._source.until(self._ends, write)
            if hit.number == NOWHERE:
                return ""
            mark = self._source.text[hit.start : hit.end]
            if hit.number == _START:
                if (yield from self._source.follows(self._role)) != NOWHERE:
                    return mark
            elif (yield from self._source.follows(self._next_message)) != NOWHERE or self._source.is_over():
                return mark
            write(mark)


def _drop(text: str) -> None:
    """The text of a message that is not for the client."""
