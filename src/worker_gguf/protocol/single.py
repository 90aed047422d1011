"""The base class of the renderings of dialects whose answer has one choice: each new part is rendered by a method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from worker_gguf.generation.events import Delta, Event, Finished, PromptLogprobs, TokenLogprob
from worker_gguf.markup.parts import Content, Part
from worker_gguf.protocol.choice import Pair, ParsedChoice, joined, joined_pairs
from worker_gguf.protocol.rendering import JsonBody, Outline, Rendering

__all__ = ["SingleRendering"]


class SingleRendering(Rendering):
    """Renders one answer.

    For a stream, `_begin` is called once, before the first part, then `_render_part` for each part, and `_end` after
    the last one if there was no error. For a whole answer, `_whole` gets all parts.

    A part has the log-probabilities of the tokens that came with it, and of those before whose text was held back. Of
    the parts of one token, the first one has them. Tokens of the reasoning have none. `token_ids` are those of all
    tokens so far.
    """

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self.heading = outline.heading
        self.choice = ParsedChoice(outline.new_parser)
        self.tallies = (self.choice.tally,)
        self.token_ids: list[int] = []
        self._pairs: list[Pair] = []
        self._held: list[TokenLogprob] = []
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
    def _render_part(self, part: Part, logprobs: Sequence[TokenLogprob]) -> bytes:
        """Return the events of a part. Neighbouring texts of one step come as one part.

        At the end, an empty content has the tokens whose text is no part of the answer.
        """

    @abstractmethod
    def _end(self) -> bytes:
        """Return the events after the last part."""

    @abstractmethod
    def _whole(self, pairs: Sequence[Pair]) -> JsonBody:
        """Return the whole answer from its parts. Neighbouring texts are one part."""

    def stream(self, index: int, events: Sequence[Event]) -> bytes:
        if self.error is not None or not events:
            return b""
        if self._has_begun and len(events) == 1 and type(event := events[0]) is Delta and not event.logprobs:
            # Written out, because this runs for every token of a stream.
            self.token_ids += event.tokens
            delta_parts = self.choice.feed(event)
            if len(delta_parts) == 1:
                return self._render_part(delta_parts[0], ())
            return b"".join([self._render_part(part, ()) for part in joined(delta_parts)])
        data = b"" if self._has_begun else self._begin()
        self._has_begun = True
        rendered = [self._render_part(part, logprobs) for part, logprobs in self._take(events)]
        return b"".join((data, *rendered, self._ending()))

    def stream_end(self) -> bytes:
        return b""

    def collect(self, index: int, events: Sequence[Event]) -> None:
        self._pairs += self._take(events)

    def answer(self) -> JsonBody:
        if self.error is not None:
            raise self.error
        return self._whole(joined_pairs(self._pairs))

    def _ending(self) -> bytes:
        return b"" if self.error is not None or self.choice.finished is None else self._end()

    def _take(self, events: Sequence[Event]) -> list[Pair]:
        """Parse the texts of events, and note their tokens and the end of the answer."""
        pairs: list[Pair] = []
        for event in events:
            match event:
                case Delta():
                    self.token_ids += event.tokens
                    self._held += () if self.choice.is_reasoning else event.logprobs
                    pairs += self._paired(self.choice.feed(event))
                case Finished():
                    pairs += self._paired(self.choice.rest())
                    if self._held:
                        pairs += self._paired((Content(""),))
                    self.error = self.choice.finish(event)
                case PromptLogprobs():
                    pass
        return joined_pairs(pairs)

    def _paired(self, parts: Sequence[Part]) -> list[Pair]:
        """Give the first of new parts the log-probabilities that wait for one."""
        if not parts:
            return []
        held, self._held = self._held, []
        return [(parts[0], held), *((part, ()) for part in parts[1:])]
