"""The parser of one answer: reasoning, content and calls out of the text as it streams.

It takes time linear in the text, holds back only what may still become a marker, and never takes back a part. It is the
same for all families: a `CallFormat` tells what to look for.

What a client gets when an answer is cut, or a model writes what is no call:

- Half a marker at the end is content. A whole marker that opens a call is not, nor is the beginning of a call.
- The pieces of a call that has begun stay as they are. They never make a whole JSON text: the last brace of the
  arguments comes only when the call is complete. With `holds_calls`, such a call is not there at all.
- What follows a marker and is no call of an offered tool is content, without the markers.
- A call in open reasoning comes when the answer ends with it. If more text follows, it was a draft, and is reasoning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.channels import ChannelFlow
from worker_gguf.markup.offer import Offer
from worker_gguf.markup.parts import Part
from worker_gguf.markup.regions import RegionFlow
from worker_gguf.markup.sink import Sink, new_call_id
from worker_gguf.markup.source import Source
from worker_gguf.markup.tool import Tool

__all__ = ["AnswerParser"]


class AnswerParser:
    """A `PartsParser` for a model that writes in the given format.

    `prompt_end` is the text between the last message of the prompt and the answer; it decides whether reasoning is
    already open. Without `tools`, calls are not looked for. Without `splits_reasoning`, reasoning is part of the
    content, with its markers, also with the one that the prompt ends with. With `holds_calls`, each call is one part
    that comes when the call is complete.
    """

    def __init__(
        self,
        form: CallFormat,
        prompt_end: str = "",
        tools: Sequence[Tool] = (),
        *,
        splits_reasoning: bool = True,
        holds_calls: bool = False,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._source = Source()
        self._sink = Sink(holds_calls, new_id)
        offer = Offer(tools if form.syntax else ())
        self._flow: ChannelFlow | RegionFlow
        if form.channels:
            self._flow = ChannelFlow(form.channels, prompt_end, self._source, self._sink, offer, splits_reasoning)
        else:
            self._flow = RegionFlow(form, prompt_end, self._source, self._sink, offer, splits_reasoning)
        self._steps = self._flow.run()
        # Read the prompt's end, so that it is known whether reasoning is open. What it has is no part of the answer.
        next(self._steps)
        self._sink.take()

    @property
    def is_reasoning(self) -> bool:
        """Whether the text that was fed so far ends inside the reasoning."""
        return self._flow.is_reasoning

    @property
    def has_half_call(self) -> bool:
        """Whether a call began that is not complete, also if it was dropped later."""
        return self._sink.has_half_call

    def feed(self, text: str) -> Sequence[Part]:
        """Return the new parts after the next piece of text."""
        if text:
            self._source.add(text)
            next(self._steps, None)
        return self._sink.take()

    def end(self) -> Sequence[Part]:
        """Return the parts of the text that is still held back, at the end of the answer."""
        self._source.ended = True
        next(self._steps, None)
        return self._sink.take()
