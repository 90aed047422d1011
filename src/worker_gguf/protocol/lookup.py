"""Finds the route of a request, and words the errors where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from worker_gguf.errors import MethodNotAllowed, NotFound
from worker_gguf.protocol.dialect import Dialect
from worker_gguf.protocol.paths import canonical, without_base
from worker_gguf.protocol.route import Match, Route
from worker_gguf.protocol.routes import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    LORA_ADAPTERS,
    MESSAGES,
    MODELS,
    OLLAMA_TAGS,
    ROUTES,
)

__all__ = ["dialect_at", "find", "method_label", "no_such_route", "wrong_method"]

# Dialects whose clients have the worker's address as their base URL.
_WITHOUT_V1: Final = frozenset({MESSAGES.dialect_import, OLLAMA_TAGS.dialect_import})
# Routes of Ollama that change which models there are.
_FIXED_MODELS: Final = frozenset({"pull", "push", "create", "copy", "delete", "blobs"})
_METHODS: Final = frozenset(route.method for route in ROUTES)
_EXACT: Final[Mapping[str, tuple[Route, ...]]] = {
    path: tuple(route for route in ROUTES if route.path == path) for path in {route.path for route in ROUTES}
}
_MOST_PARTS: Final = max(route.path.count("/") for route in ROUTES)
_OPEN: Final = tuple((route.path.partition("{")[0], route) for route in ROUTES if "{" in route.path)


def find(method: str, path: str) -> Match:
    """Find the route of a request. Raises NotFound, or MethodNotAllowed if the path only has other methods.

    If no route matches the path, the path is corrected by `canonical`, and then by `without_base`.
    """
    routes, name = _meant(path)
    for route in routes:
        if route.method == method:
            return Match(route, name)
    if routes:
        allowed = ", ".join(sorted(route.method for route in routes))
        raise wrong_method(method, allowed, path)
    raise no_such_route(path)


def wrong_method(method: str, allowed: str, path: str) -> MethodNotAllowed:
    """Return the error for a path that has other methods. `allowed` lists them."""
    if LORA_ADAPTERS in _meant(path)[0]:
        return MethodNotAllowed(f"This worker keeps no scales of adapters: send lora with each request. Use {allowed}.")
    return MethodNotAllowed(f"This route does not accept {method}. Use {allowed}.")


def dialect_at(path: str) -> Dialect:
    """Return the dialect of the errors at a path, whatever the method, also where there is no route."""
    routes, _ = _meant(path)
    if not routes and (end := _route_at_end(path)):
        routes = _EXACT[end]
    if routes:
        return routes[0].dialect
    path = canonical(path)
    if path.startswith(f"{MESSAGES.path}/"):
        return MESSAGES.dialect
    is_ollama = path.startswith("/api/") and not path.startswith("/api/v1/")
    return (OLLAMA_TAGS if is_ollama else CHAT).dialect


def method_label(method: str) -> str:
    """Return the label of a method in metrics: `other` if no route has it, because clients can send any name."""
    return method if method in _METHODS else "other"


def no_such_route(path: str) -> NotFound:
    """Return the error for a path without a route. It suggests a route that matches the end of the path, if any."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"] and not _FIXED_MODELS.isdisjoint(parts[1:2]):
        return NotFound(
            f"This worker has no route /api/{parts[1]}: it serves the models of its settings, and no request changes "
            "them. Set MODEL or MODELS."
        )
    if meant := _route_at_end(path):
        is_without = _EXACT[meant][0].dialect_import in _WITHOUT_V1
        base = "the worker's address, without /v1" if is_without else "the worker's address followed by /v1"
        return NotFound(f"No such route exists. Use {meant}: the base URL is {base}.")
    if parts[-1:] in (["embed"], ["embedding"]):  # Cohere's and Text Embeddings Inference's, and llama-server's
        return NotFound(f"No such route exists. Use {EMBEDDINGS.path}, in the form of OpenAI's API.")
    known = ", ".join(sorted(route.path for route in (CHAT, COMPLETIONS, MODELS)))
    return NotFound(f"No such route exists. This worker answers {known} and others; /openapi.json lists all over HTTP.")


def _route_at_end(path: str) -> str | None:
    """Return the longest path of a route that a path ends with, if any."""
    parts = [part for part in path.split("/") if part]
    ends = (canonical("/".join(["", *parts[-n:]])) for n in range(_MOST_PARTS - 1, 0, -1))
    return next((end for end in ends if end in _EXACT), None)


def _meant(path: str) -> tuple[tuple[Route, ...], str | None]:
    """Return what `_at` finds for a path, or else for the corrected one."""
    for written in (path, canonical(path), without_base(path)):
        routes, name = _at(written)
        if routes:
            return routes, name
    return (), None


def _at(path: str) -> tuple[tuple[Route, ...], str | None]:
    """Return the routes of a path, one for each method, and the part of the path that matches their `{name}`."""
    if routes := _EXACT.get(path, ()):
        return routes, None
    prefix = next((prefix for prefix, _ in _OPEN if path.startswith(prefix)), None)
    name = "" if prefix is None else path.removeprefix(prefix).strip("/")
    return (tuple(route for start, route in _OPEN if start == prefix), name) if name else ((), None)
