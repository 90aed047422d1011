"""The base class of the renderings in OpenAI's form: a stream of chunks, each with a choice.

Streaming must be fast. So the bytes before and after the text of a chunk are rendered once for each choice.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from worker_gguf.errors import WorkerError
from worker_gguf.generation.events import Delta, Event, Finished, PromptLogprobs, TokenLogprob
from worker_gguf.markup.parts import Content, ContentParser, NewParser, Part, Reasoning, ToolCall
from worker_gguf.protocol.choice import ParsedChoice, joined
from worker_gguf.protocol.openai.errors import DONE
from worker_gguf.protocol.openai.usage import usage_body
from worker_gguf.protocol.rendering import HOLE, Heading, Rendering, around_texts, encode

__all__ = ["ChunkRendering"]


class ChunkRendering(Rendering):
    """Renders one answer with `n` choices for each prompt. Choice `i` of prompt `k` has the index `k*n + i`."""

    _answer_object: str
    _chunk_object: str

    def __init__(
        self,
        heading: Heading,
        *,
        n_prompts: int = 1,
        n: int = 1,
        include_usage: bool = False,
        logprobs: bool = False,
        new_parser: NewParser = ContentParser,
        hides_reasoning: bool = False,
        prompt_ids: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """`new_parser` creates the parser that splits the text of one choice into parts.

        With `hides_reasoning`, tokens of the reasoning have no log-probabilities; the parser leaves out their text.
        With `prompt_ids`, the tokens of each prompt, the answer has the ids of all tokens, so nothing may be hidden.
        """
        self.heading = heading
        self.n = n
        self.n_choices = n_prompts * n
        self.include_usage = include_usage
        self.logprobs = logprobs
        self._choices = [ParsedChoice(new_parser) for _ in range(self.n_choices)]
        self.tallies = tuple(choice.tally for choice in self._choices)
        self._hides_reasoning = hides_reasoning
        self._prompt_ids = prompt_ids
        self._ids: list[list[int]] = [[] for _ in range(self.n_choices)]
        self._parts: list[list[Part]] = [[] for _ in range(self.n_choices)]
        self._tokens: list[list[TokenLogprob]] = [[] for _ in range(self.n_choices)]
        self._prompt_tokens: list[list[TokenLogprob]] = [[] for _ in range(self.n_choices)]
        self._around = [self._split_chunks(index) for index in range(self.n_choices)]
        self._is_open = [False] * self.n_choices

    def stream(self, index: int, events: Sequence[Event]) -> bytes:
        if self.error is not None or not events:
            return b""
        if isinstance(events[0], PromptLogprobs):
            events = self._take_prompt(index, events)
            if not events:
                return b""
        first = b"" if self._is_open[index] else self._open(index)
        if len(events) == 1 and isinstance(event := events[0], Delta) and not self._shows_tokens:
            return first + self._part_chunks(index, self._choices[index].feed(event))
        return first + self._stream_all(index, events)

    def stream_end(self) -> bytes:
        """Render the end of the stream: the usage, if it was requested and there was no error, then [DONE]."""
        if not self.include_usage or self.error is not None:
            return DONE
        return _event(self._envelope([]) | {"usage": self.usage()}) + DONE

    def collect(self, index: int, events: Sequence[Event]) -> None:
        for event in self._take_prompt(index, events):
            if isinstance(event, Finished):
                self._parts[index] += self._choices[index].rest()
                self._ids[index] += self._shown_ids(event)
                self._finish(index, event)
            else:
                self._tokens[index] += self._shown_logprobs(index, event)
                self._ids[index] += self._shown_ids(event)
                self._parts[index] += self._choices[index].feed(event)

    def answer(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        choices = [self._whole_choice(index) for index in range(self.n_choices)]
        if self._prompt_ids is not None:
            choices = [choice | {"token_ids": ids} for choice, ids in zip(choices, self._ids, strict=True)]
        return self._envelope(choices) | self._of_the_prompt() | {"object": self._answer_object, "usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        """Return the usage of all choices that have ended."""
        usages = {i: choice.finished.usage for i, choice in enumerate(self._choices) if choice.finished is not None}
        return usage_body(usages, self.n, sum(tally.reasoning_tokens for tally in self.tallies))

    def _take_prompt(self, index: int, events: Sequence[Event]) -> list[Delta | Finished]:
        """Store the log-probabilities of the prompt, and return the other events."""
        others: list[Delta | Finished] = []
        for event in events:
            if isinstance(event, PromptLogprobs):
                self._prompt_tokens[index] += event.tokens
            elif isinstance(event, Delta | Finished):
                others.append(event)
        return others

    @abstractmethod
    def _first_chunks(self, index: int) -> list[dict[str, Any]]:
        """Return the chunk choices to send before the first text of a choice."""

    @abstractmethod
    def _chunk_choice(
        self, index: int, part: Part | None, tokens: Sequence[TokenLogprob] | None, reason: str | None
    ) -> dict[str, Any]:
        """Return one choice of a chunk. `part` is None in the last chunk, `tokens` without log-probabilities."""

    @abstractmethod
    def _whole_choice(self, index: int) -> dict[str, Any]:
        """Return one choice of the whole answer."""

    def _of_the_prompt(self) -> dict[str, Any]:
        """Return the fields about the prompt of the whole answer, and of the first chunk of a choice."""
        return {}

    @property
    def _shows_tokens(self) -> bool:
        return self.logprobs or self._prompt_ids is not None

    def _stream_all(self, index: int, events: Sequence[Event]) -> bytes:
        parts: list[Part] = []
        tokens: list[TokenLogprob] = []
        ids: list[int] = []
        for event in events:
            if isinstance(event, Delta):
                tokens += self._shown_logprobs(index, event) if self.logprobs else ()
                ids += self._shown_ids(event)
                parts += self._choices[index].feed(event)
        if len(events) > 1:
            parts = joined(parts)
        if tokens or ids:  # send them with the first part, or with an empty one if the text is still held back
            first, *parts = parts or (Content(""),)
            choice = self._chunk_choice(index, first, tokens or None, None)
            chunk = self._chunk(choice | {"token_ids": ids} if ids else choice) + self._part_chunks(index, parts)
        else:
            chunk = self._part_chunks(index, parts)
        ends = [self._end_choice(index, event) for event in events if isinstance(event, Finished)]
        return chunk + b"".join(ends)

    def _reason(self, index: int) -> str:
        """Return the finish reason of a choice that has ended."""
        return self._choices[index].reason

    def _shown_logprobs(self, index: int, delta: Delta) -> Sequence[TokenLogprob]:
        return () if self._hides_reasoning and self._choices[index].is_reasoning else delta.logprobs

    def _shown_ids(self, event: Delta | Finished) -> Sequence[int]:
        """Return the ids of an event's tokens if the answer has ids: those of a text, or the one that ended it."""
        if self._prompt_ids is None:
            return ()
        if isinstance(event, Delta):
            return event.tokens
        return () if event.end_token is None else (event.end_token,)

    def _part_chunks(self, index: int, parts: Sequence[Part]) -> bytes:
        if len(parts) == 1 and not isinstance(part := parts[0], ToolCall):
            return encode(part.text).encode().join(self._around[index][type(part)])
        return b"".join(self._chunk(self._chunk_choice(index, part, None, None)) for part in parts)

    def _split_chunks(self, index: int) -> dict[type[Part], list[bytes]]:
        """Return the bytes of a chunk of each kind of text, split at the places of the text."""
        split: dict[type[Part], list[bytes]] = {}
        for part in (Content(HOLE), Reasoning(HOLE)):
            choice = self._chunk_choice(index, part, None, None)
            split[type(part)] = around_texts(self._chunk(choice), encode(choice).count(encode(HOLE)))
        return split

    def _open(self, index: int) -> bytes:
        self._is_open[index] = True
        return b"".join(self._chunk(choice, **self._of_the_prompt()) for choice in self._first_chunks(index))

    def _end_choice(self, index: int, event: Finished) -> bytes:
        rest = self._part_chunks(index, self._choices[index].rest())
        if self._finish(index, event) is not None:
            return rest
        choice = self._chunk_choice(index, None, None, self._reason(index))
        return rest + self._chunk(choice | {"token_ids": ids} if (ids := self._shown_ids(event)) else choice)

    def _finish(self, index: int, event: Finished) -> WorkerError | None:
        error = self._choices[index].finish(event)
        self.error = self.error or error
        return error

    def _chunk(self, choice: dict[str, Any], **others: Any) -> bytes:
        body = self._envelope([choice]) | others
        return _event(body | {"usage": None} if self.include_usage else body)

    def _envelope(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.heading.id,
            "object": self._chunk_object,
            "created": self.heading.created,
            "model": self.heading.model,
            "system_fingerprint": self.heading.system_fingerprint,
            "choices": choices,
        }


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + encode(body).encode() + b"\n\n"
