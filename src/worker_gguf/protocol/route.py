"""A route and what it does: generates, inspects a prompt, makes vectors, or lists models. Independent of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Final, Protocol

from msgspec import Struct
from pydantic import BaseModel

from worker_gguf.protocol.calls import Call, ChatCall, Defaults, InspectionCall, ReadyCall
from worker_gguf.protocol.dialect import Dialect
from worker_gguf.protocol.models import ModelCard, ModelStatus, SlotUse
from worker_gguf.protocol.pooling.calls import PooledAnswer, PoolingCall
from worker_gguf.protocol.rendering import JsonBody, Outline, Rendering

__all__ = [
    "Generation",
    "Inspection",
    "Inspector",
    "Listed",
    "Listing",
    "Match",
    "Pooling",
    "Route",
    "Task",
    "n_prompt_tokens",
]


class Generation(Struct, frozen=True):
    """Generates an answer. The ids of the answers begin with `id_prefix`.

    `parse` raises InvalidRequest. `render` takes the parsed call and the outline of its answer.
    """

    id_prefix: str
    body: type[BaseModel]
    parse: Callable[[object, Defaults], Call | ReadyCall]
    render: Callable[[Any, Outline], Rendering]


class Inspector(Protocol):
    """What the template and the vocabulary of a model say about a prompt. Its methods raise RequestErrors."""

    @property
    def card(self) -> ModelCard: ...

    def prompt_text(self, call: ChatCall) -> str:
        """Return the text of a conversation's prompt."""
        ...

    def prompt_tokens(self, call: Call) -> Sequence[Sequence[int]]:
        """Return the tokens of each prompt of a call. A prompt that is longer than the context is no error here."""
        ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Sequence[int]: ...

    def text(self, tokens: Sequence[int], param: str) -> str:
        """Return the text of tokens. Raises InvalidRequest with this `param` for one that is not in the vocabulary."""
        ...

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token, with control tokens written out."""
        ...


def n_prompt_tokens(call: InspectionCall, inspector: Inspector) -> int:
    """Return the number of tokens in the prompt of a conversation."""
    assert call.chat is not None
    (tokens,) = inspector.prompt_tokens(call.chat)
    return len(tokens)


class Inspection(Struct, frozen=True):
    """Answers from the template and the vocabulary of a model, without its weights.

    The model must have one of `abilities`, if there are any. `parse` and `answer` raise RequestErrors.
    """

    body: type[BaseModel]
    parse: Callable[[object, Defaults], InspectionCall]
    answer: Callable[[Any, Inspector], JsonBody]
    abilities: tuple[str, ...] = ()


class Pooling(Struct, frozen=True):
    """Makes vectors or scores of texts. The ids of the answers begin with `id_prefix`.

    The model must have one of `abilities`, in the names of a ModelCard. `parse` and `check` raise InvalidRequest;
    `check` compares a call with the number of values that the model gives for an input, before any is computed.
    """

    id_prefix: str
    abilities: tuple[str, ...]
    body: type[BaseModel]
    parse: Callable[[object, Defaults], PoolingCall | ReadyCall]
    render: Callable[[Any, PooledAnswer], JsonBody]
    check: Callable[[Any, int], None] | None = None


class Listed(Struct, frozen=True):
    """What a Listing answers from. `named` raises NotFound; None is the model for requests without a name.

    `name` is the part of the path that matches the route's `{name}`. `slots` returns the use of a model's slots, and
    takes the same names as `named`.
    """

    models: Sequence[tuple[ModelCard, ModelStatus | None]]
    named: Callable[[str | None], tuple[ModelCard, ModelStatus | None]]
    name: str | None
    query: Mapping[str, str]
    body: object
    slots: Callable[[str | None], SlotUse] = lambda name: SlotUse()


class Listing(Struct, frozen=True):
    """Answers from the facts of the served models, whether they are in memory or not. `answer` raises RequestErrors."""

    answer: Callable[[Listed], JsonBody]
    body: type[BaseModel] | None = None


Task = Generation | Inspection | Pooling | Listing

_OPENAI: Final = "openai.errors:OPENAI"


class Route(Struct, frozen=True):
    """One route. `path` is written as in OpenAPI: `{name}` matches the rest of a path. Metrics use it as a label.

    `task_import` and `dialect_import` say where the values are in this package: `module:NAME`. They are imported when
    they are first used, because most workers use few dialects, and the start should not wait for the others.
    `operation` is the name of a generating route in OpenTelemetry's conventions for generative AI.
    """

    method: str
    path: str
    summary: str
    task_import: str
    operation: str | None = None
    dialect_import: str = _OPENAI

    @property
    def task(self) -> Task:
        task: Task = _imported(self.task_import)
        return task

    @property
    def dialect(self) -> Dialect:
        dialect: Dialect = _imported(self.dialect_import)
        return dialect


class Match(Struct, frozen=True):
    """The route of a path, and the part of the path that matches the route's `{name}`."""

    route: Route
    name: str | None = None


@cache
def _imported(written: str) -> Any:
    module, _, name = written.partition(":")
    return getattr(import_module(f"{__package__}.{module}"), name)
