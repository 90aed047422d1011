"""Parsed requests for vectors and scores as frozen values, the same for all dialects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.rendering import Heading

__all__ = ["Input", "Pair", "PooledAnswer", "PoolingCall", "Truncation"]


class Pair(Struct, frozen=True):
    """A query, and a document that is ranked for it."""

    query: str
    document: str


class Truncation(Struct, frozen=True):
    """An input that is too long loses tokens at its `end` or its `start`.

    Of each input, at most `most` tokens are kept, with the special ones at its ends. None means as many as the model
    takes.
    """

    side: Literal["end", "start"] = "end"
    most: int | None = None


Input = str | tuple[int, ...] | Pair


class PoolingCall(Struct, frozen=True, kw_only=True):
    """A parsed request. The model makes a vector or scores of each of `inputs`.

    A model that does not rank makes two vectors of a pair. `param` is the name of the field with the inputs. Without a
    `truncation`, an input that is too long is an error. `timeout_s` counts from the arrival of the request.
    """

    inputs: tuple[Input, ...]
    param: str
    model: str | None = None
    truncation: Truncation | None = None
    priority: int = 0
    timeout_s: float | None = None
    ignored: tuple[str, ...] = ()


class PooledAnswer(Struct, frozen=True):
    """What an engine made of the inputs of a call.

    `values` has the numbers of each input in the order of the call: of a vector, not normalised, or the scores if the
    model `ranks`. A pair of a model that does not rank has two entries. `n_tokens` has the tokens of each entry.
    `seconds` are those since the request arrived, of them `load_seconds` until the model was in memory, and
    `engine_seconds` in the engine.
    """

    heading: Heading
    card: ModelCard
    values: Sequence[Sequence[float]]
    n_tokens: Sequence[int]
    seconds: float = 0.0
    load_seconds: float = 0.0
    engine_seconds: float = 0.0

    @property
    def ranks(self) -> bool:
        return "rerank" in self.card.capabilities
