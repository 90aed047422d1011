"""The HTTP front end: routes, keys, limits, replies. Knows nothing of models, templates or the engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import cache

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from worker_gguf.errors import InvalidRequest, MethodNotAllowed, NotFound, Unauthorized, WorkerError
from worker_gguf.frontends import openapi
from worker_gguf.frontends.auth import ApiKeys
from worker_gguf.frontends.backend import Backend
from worker_gguf.frontends.exchange import Exchange, Frame
from worker_gguf.frontends.probes import Ping
from worker_gguf.frontends.replies import error_bytes, error_headers, json_bytes, request_id_from
from worker_gguf.metrics import Metrics

__all__ = ["create_app", "create_health_app"]

_API: tuple[tuple[str, str], ...] = (
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model_id:path}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
)


def create_app(backend: Backend, *, api_keys: Iterable[str], max_body_bytes: int, metrics: Metrics) -> Starlette:
    """Build the whole application.

    /ping and /health are free, for the platform asks without a key; all of /v1 and /metrics want one when keys are set.
    """
    keys = ApiKeys(api_keys)
    app = _new_app()
    _add_probes(app, backend, keys, metrics)
    frame = Frame(backend, keys, max_body_bytes, metrics)
    for method, path in _API:
        _add_api(app, frame, method, path)
    _publish(app, [(method, _label(path)) for method, path in _API], has_keys=bool(keys))
    return app


def create_health_app(backend: Backend, *, api_keys: Iterable[str], metrics: Metrics) -> Starlette:
    """Build what PORT_HEALTH serves: /ping, /health and /metrics, nothing else."""
    app = _new_app()
    _add_probes(app, backend, ApiKeys(api_keys), metrics)
    _publish(app, [], has_keys=False)
    return app


def _new_app() -> Starlette:
    app = Starlette(exception_handlers={HTTPException: _routing_error})
    # A client that posts to /v1/completions/ gets a 404 that says so, not a redirect to follow.
    app.router.redirect_slashes = False
    return app


def _add_probes(app: Starlette, backend: Backend, keys: ApiKeys, metrics: Metrics) -> None:
    # Before all other routes and in plain ASGI: it is asked often, and must answer in the middle of a full batch.
    app.router.routes.insert(0, Route("/ping", Ping(backend), methods=["GET"]))

    async def health(request: Request) -> Response:
        status = 503 if backend.status() in ("failed", "draining", "stopped") else 200
        return _json_response(status, json_bytes(backend.health()))

    async def scrape(request: Request) -> Response:
        try:
            keys.check(request.headers.get("authorization"))
        except Unauthorized as error:
            return _error_response(error)
        return Response(metrics.render(), media_type=metrics.content_type)

    _add(app, "GET", "/health", health)
    _add(app, "GET", "/metrics", scrape)


def _add_api(app: Starlette, frame: Frame, method: str, path: str) -> None:
    label = _label(path)

    async def endpoint(request: Request) -> Response:
        return Exchange(frame, label)

    _add(app, method, path, endpoint)


def _publish(app: Starlette, routes: Iterable[tuple[str, str]], *, has_keys: bool) -> None:
    """Serve the document, made once, at the first time that it is asked for."""
    made = cache(lambda: json_bytes(openapi.document(routes, has_keys=has_keys)))

    async def document(request: Request) -> Response:
        return _json_response(200, made())

    _add(app, "GET", "/openapi.json", document)


def _add(app: Starlette, method: str, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
    route = Route(path, endpoint, methods=[method])
    route.methods = {method}  # Starlette adds HEAD
    app.router.routes.append(route)


def _label(path: str) -> str:
    return path.replace(":path}", "}")


async def _routing_error(request: Request, error: Exception) -> Response:
    """Put what the router refuses into OpenAI's envelope."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        allowed = headers.get("Allow", headers.get("allow", "another method"))
        refusal: WorkerError = MethodNotAllowed(f"{request.method} is not for this route. Use {allowed}.")
    elif error.status_code == 404:
        refusal = NotFound("There is no such route. /openapi.json lists those there are.")
    else:
        refusal = InvalidRequest("The request could not be read.")
    return _error_response(refusal, headers, request_id_from(request.headers.get("x-request-id")))


def _error_response(error: WorkerError, headers: dict[str, str] | None = None, request_id: str = "") -> Response:
    named = {**(headers or {}), **error_headers(error)}
    if request_id:
        named["X-Request-Id"] = request_id
    return _json_response(error.status, error_bytes(error), named)


def _json_response(status: int, content: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(content, status_code=status, headers=headers, media_type="application/json")
