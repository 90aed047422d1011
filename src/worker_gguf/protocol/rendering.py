"""The base class of all renderings: turns the events of the engine into the bytes of a stream, or into one answer."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from msgspec import Struct

from worker_gguf.errors import WorkerError
from worker_gguf.generation.events import Event
from worker_gguf.generation.progress import Progress, Tally
from worker_gguf.markup.parts import ContentParser, NewParser
from worker_gguf.protocol.dialect import Wording

__all__ = ["HOLE", "Heading", "JsonBody", "Outline", "Rendering", "around_texts", "encode"]

JsonBody: TypeAlias = Any
"""The JSON of an answer: an object, or in a few dialects a list of objects."""

# Escaped to ASCII: some readers of event streams also end lines at U+0085 and U+2028 (Python's str.splitlines).
encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

HOLE: Final = "\x00text\x00"
"""Marks the place of a text in what is rendered once, to be split there."""
_HOLE: Final = encode(HOLE).encode()


def around_texts(data: bytes, n: int = 1) -> list[bytes]:
    """Split rendered bytes at the last `n` holes. A name before them, which a client chose, may look like one."""
    return data.rsplit(_HOLE, n)


class Heading(Struct, frozen=True):
    """The fields that every chunk and the whole answer have in common. `created` is in seconds since 1970."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class Outline(Struct, frozen=True):
    """What is known of an answer before the engine computes it.

    `new_parser` creates the parser that splits the text of one choice into parts. `prompts` has the tokens of each
    prompt, and `texts` the texts of prompts that the answer repeats. The request arrived at `started_s` of
    `time.monotonic`, and waited `load_s` until its model was in memory. With `is_cut`, the prompt has less than was
    sent.
    """

    heading: Heading
    new_parser: NewParser = ContentParser
    prompts: Sequence[Sequence[int]] = ()
    texts: Sequence[str] = ()
    started_s: float = 0.0
    load_s: float = 0.0
    is_cut: bool = False


class Rendering(ABC):
    """Renders one answer with one or more choices.

    Use either `stream` and then `stream_end`, or `collect` and then `answer`, in one thread. A deadline, a failure or a
    cancellation is never rendered as the end of an answer: it sets `error`, after which `stream` renders nothing and
    `answer` raises the error. `tallies` has one entry for each choice. `progress` is set once the engine has the
    request; it has one entry for each choice, too.
    """

    error: WorkerError | None = None
    progress: Sequence[Progress] = ()
    tallies: tuple[Tally, ...]

    @abstractmethod
    def stream(self, index: int, events: Sequence[Event]) -> bytes:
        """Render the next events of a choice as whole events of the stream. Returns b"" if there is nothing to send."""

    @abstractmethod
    def stream_end(self) -> bytes:
        """Render the end of the stream."""

    def failure(self, wording: Wording) -> bytes | None:
        """Render the error that ends a stream after its first event, or return None to leave that to the dialect."""
        return None

    @abstractmethod
    def collect(self, index: int, events: Sequence[Event]) -> None:
        """Store the next events of a choice for `answer`."""

    @abstractmethod
    def answer(self) -> JsonBody:
        """Render the whole answer after all choices have ended. Raises the error that ended it."""
