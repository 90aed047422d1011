"""Builds the Starlette application: routes, API keys, limits, replies.

Independent of models, templates and the engine.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import cache
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from worker_gguf.errors import InvalidRequest, NotFound, Unauthorized, WorkerError
from worker_gguf.http import openapi
from worker_gguf.http.auth import ApiKeys
from worker_gguf.http.cors import Cors
from worker_gguf.http.exchange import Exchange, Frame
from worker_gguf.http.paths import Retried
from worker_gguf.http.probes import Ping
from worker_gguf.http.sse import NO_PINGS, Pings
from worker_gguf.observe.account import Account
from worker_gguf.observe.ending import note_ending
from worker_gguf.observe.log import bound
from worker_gguf.observe.metrics import Metrics
from worker_gguf.protocol.dialect import Dialect
from worker_gguf.protocol.lookup import dialect_at, method_label, no_such_route, wrong_method
from worker_gguf.protocol.openai.errors import OPENAI
from worker_gguf.protocol.route import Route
from worker_gguf.protocol.routes import ROUTES
from worker_gguf.service.backend import Backend
from worker_gguf.service.envelope import json_bytes, request_id_from

if TYPE_CHECKING:
    from worker_gguf.observe.telemetry import Telemetry

__all__ = ["create_app", "create_health_app"]

logger = logging.getLogger(__name__)

# Ollama's command and some other clients of its API ask for this page first, and a few look for its words.
_ROOT = "Ollama is running"


def create_app(
    backend: Backend,
    *,
    api_keys: Iterable[str],
    max_body_bytes: int,
    metrics: Metrics,
    telemetry: Telemetry | None = None,
    worker_id: str | None = None,
    pings: Pings = NO_PINGS,
    health_path: str = "/ping",
    cors_origins: Collection[str] = (),
) -> Starlette:
    """Build the whole application.

    If `api_keys` has any key, all routes of the table and /metrics need one. /ping and /health never need a key,
    because the platform sends none. `health_path` answers like /ping. `worker_id` is sent as X-Worker-Id with each
    answer.
    """
    keys = ApiKeys(api_keys)
    app = _new_app()
    _add_probes(app, backend, keys, metrics, health_path)
    frame = Frame(backend, keys, max_body_bytes, metrics, telemetry, worker_id, pings)
    app.add_exception_handler(HTTPException, _noted_routing_error(frame))
    if cors_origins:
        app.add_middleware(Cors, origins=cors_origins)
    _add_root(app)
    for route in ROUTES:
        _add_api(app, frame, route)
    _publish(app, ROUTES, has_keys=bool(keys))
    return app


def create_health_app(
    backend: Backend, *, api_keys: Iterable[str], metrics: Metrics, health_path: str = "/ping"
) -> Starlette:
    """Build the application for PORT_HEALTH, which only has /ping, /health and /metrics."""
    app = _new_app()
    _add_probes(app, backend, ApiKeys(api_keys), metrics, health_path)
    _publish(app, [], has_keys=False)
    return app


def _new_app() -> Starlette:
    app = Starlette(exception_handlers={HTTPException: _routing_error})
    # `Retried` answers a POST to /v1/completions/ without a redirect: some clients do not send the body again.
    app.router.redirect_slashes = False
    app.router.default = Retried(app.router, app.router.default)
    return app


def _add_probes(app: Starlette, backend: Backend, keys: ApiKeys, metrics: Metrics, health_path: str) -> None:
    # First in the table and in plain ASGI, because /ping is requested often and must be answered under full load.
    for path in {"/ping", health_path}:
        app.router.routes.insert(0, StarletteRoute(path, Ping(backend), methods=["GET"]))

    async def health(request: Request) -> Response:
        status = 503 if backend.status() in ("failed", "draining", "stopped") else 200
        return _json_response(status, json_bytes(backend.health()))

    async def scrape(request: Request) -> Response:
        try:
            keys.check(request.headers.get("authorization"), request.headers.get("x-api-key"))
        except Unauthorized as error:
            return _error_response(error)
        return Response(metrics.render(), media_type=metrics.content_type)

    _add(app, "GET", "/health", health)
    _add(app, "GET", "/metrics", scrape)


def _add_root(app: Starlette) -> None:
    async def root(request: Request) -> Response:
        return Response(_ROOT, media_type="text/plain")

    _add(app, "GET", "/", root)


def _add_api(app: Starlette, frame: Frame, route: Route) -> None:
    async def endpoint(request: Request) -> Response:
        return Exchange(frame, route)

    _add(app, route.method, route.path.replace("}", ":path}"), endpoint)


def _publish(app: Starlette, routes: Iterable[Route], *, has_keys: bool) -> None:
    """Serve the OpenAPI document, which is built on the first request for it."""
    content = cache(lambda: json_bytes(openapi.document(routes, has_keys=has_keys)))

    async def document(request: Request) -> Response:
        return _json_response(200, content())

    _add(app, "GET", "/openapi.json", document)


def _add(app: Starlette, method: str, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
    # HEAD has a route of its own, so that the error of another method names GET alone.
    for own in ("GET", "HEAD") if method == "GET" else (method,):
        route = StarletteRoute(path, endpoint, methods=[own])
        route.methods = {own}  # Starlette adds HEAD
        app.router.routes.append(route)


def _noted_routing_error(frame: Frame) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Build the handler of routing errors, which also counts and logs the request."""

    async def refuse(request: Request, error: Exception) -> Response:
        refusal = _refusal(request, error, no_such_route(request.scope["path"]))
        response = _refused(request, error, refusal)
        account = Account("http", response.headers["X-Request-Id"])
        account.error = refusal
        with bound(request_id=response.headers["X-Request-Id"]):
            account.routed(method_label(request.method), "other")
            note_ending(account.close(response.status_code), frame.metrics, frame.telemetry, logger)
        return response

    return refuse


async def _routing_error(request: Request, error: Exception) -> Response:
    not_found = NotFound("This port has no such route. /openapi.json lists its routes.")
    return _refused(request, error, _refusal(request, error, not_found))


def _refused(request: Request, error: Exception, refusal: WorkerError) -> Response:
    """Build the response to a routing error, in the envelope of the API that the path belongs to."""
    headers = dict(getattr(error, "headers", None) or {})
    request_id = request_id_from(request.headers.get("x-request-id"))
    return _error_response(refusal, headers, request_id, dialect_at(request.scope["path"]))


def _refusal(request: Request, error: Exception, not_found: NotFound) -> WorkerError:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        headers = dict(error.headers or {})
        allowed = headers.get("Allow", headers.get("allow", "another method"))
        return wrong_method(request.method, allowed, request.scope["path"])
    return not_found if error.status_code == 404 else InvalidRequest("The request could not be read.")


def _error_response(
    error: WorkerError, headers: dict[str, str] | None = None, request_id: str = "", dialect: Dialect = OPENAI
) -> Response:
    named = {**(headers or {}), **error.headers}
    if request_id:
        named |= dict.fromkeys(dialect.id_headers, request_id)
    return _json_response(dialect.status(error), json_bytes(dialect.error_body(error, request_id)), named)


def _json_response(status: int, content: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(content, status_code=status, headers=headers, media_type="application/json")
