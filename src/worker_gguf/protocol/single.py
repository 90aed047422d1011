"""The base class of the renderings of dialects whose answer has one choice: each new part is rendered by a method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from worker_gguf.generation.events import Delta, Event, Finished, PromptLogprobs, TokenLogprob
from worker_gguf.markup.parts import Content, Part
from worker_gguf.protocol.choice import ParsedChoice, joined
from worker_gguf.protocol.rendering import JsonBody, Outline, Rendering

__all__ = ["NO_TOKENS", "SingleRendering", "Tokens"]


class Tokens(NamedTuple):
    """The tokens that came with a part: their ids, and their log-probabilities if the request wants these.

    A part of a step that has several gets the tokens of all of them if it is the first one, else none.
    """

    ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprob] = ()


NO_TOKENS = Tokens()


class SingleRendering(Rendering):
    """Renders one answer.

    For a stream, `_begin` is called once, before the first part, then `_render_part` for each part, and `_end` after
    the last one if there was no error. For a whole answer, `_whole` gets all parts. `token_ids` are those
    of all tokens so far, and `logprobs` those of all tokens outside the reasoning.
    """

    needs_ids: ClassVar[bool] = False
    """Whether `_render_part` gets the ids of tokens that come alone. This takes some time."""

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self.heading = outline.heading
        self.choice = ParsedChoice(outline.new_parser)
        self.tallies = (self.choice.tally,)
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self._parts: list[Part] = []
        self._has_begun = False

    @property
    def finished(self) -> Finished:
        """How the answer ended."""
        assert self.choice.finished is not None, "the answer has not ended"
        return self.choice.finished

    @property
    def n_prompt_tokens(self) -> int:
        return len(self.outline.prompts[0]) if self.outline.prompts else 0

    @property
    def n_cached_tokens(self) -> int:
        """The number of tokens of the prompt that were in memory already, once the first token is there."""
        return self.progress[0].cached_tokens if self.progress else 0

    @abstractmethod
    def _begin(self) -> bytes:
        """Return the events before the first part."""

    @abstractmethod
    def _render_part(self, part: Part, tokens: Tokens) -> bytes:
        """Return the events of a part. Neighbouring texts of one step come as one part.

        An empty content has tokens whose text is held back.
        """

    @abstractmethod
    def _end(self) -> bytes:
        """Return the events after the last part."""

    @abstractmethod
    def _whole(self, parts: Sequence[Part]) -> JsonBody:
        """Return the whole answer. Neighbouring texts are one part."""

    def stream(self, index: int, events: Sequence[Event]) -> bytes:
        if self.error is not None or not events:
            return b""
        if self._has_begun and len(events) == 1 and type(event := events[0]) is Delta and not event.logprobs:
            # Written out, because this runs for every token of a stream.
            self.token_ids += event.tokens
            delta_parts = self.choice.feed(event)
            if len(delta_parts) == 1:
                return self._render_part(delta_parts[0], Tokens(event.tokens) if self.needs_ids else NO_TOKENS)
            return self._render_all(joined(delta_parts), Tokens(event.tokens))
        data = b"" if self._has_begun else self._begin()
        self._has_begun = True
        parts, tokens = self._take(events)
        if tokens.logprobs and not parts:
            parts = (Content(""),)
        return data + self._render_all(parts, tokens) + self._ending()

    def stream_end(self) -> bytes:
        return b""

    def collect(self, index: int, events: Sequence[Event]) -> None:
        parts, _ = self._take(events)
        self._parts += parts

    def answer(self) -> JsonBody:
        if self.error is not None:
            raise self.error
        return self._whole(joined(self._parts))

    def _render_all(self, parts: Sequence[Part], tokens: Tokens) -> bytes:
        data = b""
        for part in parts:
            data += self._render_part(part, tokens)
            tokens = NO_TOKENS
        return data

    def _ending(self) -> bytes:
        return b"" if self.error is not None or self.choice.finished is None else self._end()

    def _take(self, events: Sequence[Event]) -> tuple[Sequence[Part], Tokens]:
        """Parse the texts of events, and note their tokens and the end of the answer."""
        found: list[Part] = []
        ids: list[int] = []
        logprobs: list[TokenLogprob] = []
        for event in events:
            match event:
                case Delta():
                    ids += event.tokens
                    logprobs += () if self.choice.is_reasoning else event.logprobs
                    found += self.choice.feed(event)
                case Finished():
                    found += self.choice.rest()
                    self.error = self.choice.finish(event)
                case PromptLogprobs():
                    pass
        self.token_ids += ids
        self.logprobs += logprobs
        return joined(found), Tokens(ids, logprobs)
