"""The table of routes, for HTTP, the queue, OpenAPI, the admission of several models and the traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from pydantic import BaseModel

from worker_gguf.errors import MethodNotAllowed, NotFound
from worker_gguf.markup.parts import NewParser
from worker_gguf.protocol.bodies import ChatBody, CompletionBody
from worker_gguf.protocol.calls import Call, Defaults, parse_chat, parse_completion
from worker_gguf.protocol.chat_rendering import render_chat
from worker_gguf.protocol.completion_rendering import render_completion
from worker_gguf.protocol.errors import OPENAI_ERRORS, ErrorShape
from worker_gguf.protocol.paths import canonical
from worker_gguf.protocol.rendering import Heading, Rendering

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "MODEL",
    "MODELS",
    "ROUTES",
    "Generation",
    "Match",
    "Route",
    "find",
    "method_label",
    "no_such_route",
    "wrong_method",
]


class Generation(Struct, frozen=True):
    """The functions that parse and render the requests of a generating route.

    `operation` is its name in OpenTelemetry's conventions for generative AI. The ids of its answers begin with
    `id_prefix`. `parse` raises InvalidRequest. `render` takes the parsed call, the heading of the answer, the texts of
    the prompts that the answer repeats, what creates the parser of one choice, and the tokens of the prompts if the
    answer has their ids.
    """

    operation: str
    id_prefix: str
    body: type[BaseModel]
    parse: Callable[[object, Defaults], Call]
    render: Callable[[Any, Heading, Sequence[str], NewParser, Sequence[Sequence[int]] | None], Rendering]


class Route(Struct, frozen=True):
    """One route. `path` is written as in OpenAPI: `{name}` matches the rest of a path. Metrics use it as a label."""

    method: str
    path: str
    summary: str
    generation: Generation | None = None
    errors: ErrorShape = OPENAI_ERRORS

    @property
    def operation(self) -> str | None:
        return None if self.generation is None else self.generation.operation


class Match(Struct, frozen=True):
    """The route of a path, and the part of the path that matches the route's `{name}`."""

    route: Route
    name: str | None = None


MODELS: Final = Route("GET", "/v1/models", "The models served here")
MODEL: Final = Route("GET", "/v1/models/{model_id}", "One model")
CHAT: Final = Route(
    "POST",
    "/v1/chat/completions",
    "Answer a conversation",
    Generation("chat", "chatcmpl", ChatBody, parse_chat, render_chat),
)
COMPLETIONS: Final = Route(
    "POST",
    "/v1/completions",
    "Continue a text",
    Generation("text_completion", "cmpl", CompletionBody, parse_completion, render_completion),
)
ROUTES: Final = (MODELS, MODEL, CHAT, COMPLETIONS)

_METHODS: Final = frozenset(route.method for route in ROUTES)
_EXACT: Final[Mapping[str, tuple[Route, ...]]] = {
    path: tuple(route for route in ROUTES if route.path == path) for path in {route.path for route in ROUTES}
}
_MOST_PARTS: Final = max(route.path.count("/") for route in ROUTES)
_OPEN: Final = tuple((route.path.partition("{")[0], route) for route in ROUTES if "{" in route.path)


def find(method: str, path: str) -> Match:
    """Find the route of a request. Raises NotFound, or MethodNotAllowed if the path only has other methods.

    If no route matches the path, the path is corrected by `canonical`.
    """
    routes, name = _at(path)
    if not routes:
        routes, name = _at(canonical(path))
    for route in routes:
        if route.method == method:
            return Match(route, name)
    if routes:
        allowed = ", ".join(sorted(route.method for route in routes))
        raise wrong_method(method, allowed)
    raise no_such_route(path)


def wrong_method(method: str, allowed: str) -> MethodNotAllowed:
    """Return the error for a path that has other methods. `allowed` lists them."""
    return MethodNotAllowed(f"This route does not accept {method}. Use {allowed}.")


def method_label(method: str) -> str:
    """Return the label of a method in metrics: `other` if no route has it, because clients can send any name."""
    return method if method in _METHODS else "other"


def no_such_route(path: str) -> NotFound:
    """Return the error for a path without a route. It suggests a route that matches the end of the path, if any."""
    parts = [part for part in path.split("/") if part]
    ends = (canonical("/".join(["", *parts[-n:]])) for n in range(_MOST_PARTS - 1, 0, -1))
    if meant := next((end for end in ends if end in _EXACT), None):
        return NotFound(f"No such route exists. Use {meant}: the base URL is the worker's address followed by /v1.")
    known = ", ".join(sorted({route.path for route in ROUTES}))
    return NotFound(f"No such route exists. This worker answers {known}.")


def _at(path: str) -> tuple[tuple[Route, ...], str | None]:
    """Return the routes of a path, one for each method, and the part of the path that matches their `{name}`."""
    if routes := _EXACT.get(path, ()):
        return routes, None
    prefix = next((prefix for prefix, _ in _OPEN if path.startswith(prefix)), None)
    name = "" if prefix is None else path.removeprefix(prefix).strip("/")
    return (tuple(route for start, route in _OPEN if start == prefix), name) if name else ((), None)
