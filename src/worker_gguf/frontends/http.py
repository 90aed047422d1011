"""The HTTP front end: routes, keys, limits, replies. Knows nothing of models, templates or the engine."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from worker_gguf import __version__
from worker_gguf.errors import InvalidRequest, MethodNotAllowed, NotFound, Unauthorized, WorkerError
from worker_gguf.frontends import openapi
from worker_gguf.frontends.auth import ApiKeys
from worker_gguf.frontends.backend import Backend
from worker_gguf.frontends.exchange import Exchange, Frame
from worker_gguf.frontends.probes import Ping
from worker_gguf.frontends.replies import error_bytes, error_headers, json_bytes, request_id_from
from worker_gguf.frontends.sse import NO_PINGS, Pings
from worker_gguf.metrics import Metrics

__all__ = ["create_app", "create_health_app"]

_API: tuple[tuple[str, str], ...] = (
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model_id:path}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
)


def create_app(
    backend: Backend,
    *,
    api_keys: Iterable[str],
    max_body_bytes: int,
    metrics: Metrics,
    worker_id: str | None = None,
    pings: Pings = NO_PINGS,
    health_path: str = "/ping",
) -> FastAPI:
    """Build the whole application.

    /ping, which `health_path` answers like, and /health are free, for the platform asks without a key; all of /v1 and
    /metrics want one when keys are set. `worker_id` goes into each answer's X-Worker-Id.
    """
    keys = ApiKeys(api_keys)
    app = _new_app()
    _add_probes(app, backend, keys, metrics, health_path)
    frame = Frame(backend, keys, max_body_bytes, metrics, worker_id, pings)
    for method, path in _API:
        _add_api(app, frame, method, path)
    openapi.publish(app, has_keys=bool(keys))
    return app


def create_health_app(
    backend: Backend, *, api_keys: Iterable[str], metrics: Metrics, health_path: str = "/ping"
) -> FastAPI:
    """Build what PORT_HEALTH serves: /ping, /health and /metrics, nothing else."""
    app = _new_app()
    _add_probes(app, backend, ApiKeys(api_keys), metrics, health_path)
    openapi.publish(app, has_keys=False)
    return app


def _new_app() -> FastAPI:
    # No slash redirects: a client that posts to /v1/completions/ gets a 404 that says so, not a redirect to follow.
    app = FastAPI(title="worker-gguf", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_exception_handler(HTTPException, _routing_error)
    return app


def _add_probes(app: FastAPI, backend: Backend, keys: ApiKeys, metrics: Metrics, health_path: str) -> None:
    # Before all other routes and in plain ASGI: it is asked often, and must answer in the middle of a full batch.
    for path in {"/ping", health_path}:
        app.router.routes.insert(0, Route(path, Ping(backend), methods=["GET"]))

    async def health(request: Request) -> Response:
        status = 503 if backend.status() in ("failed", "draining", "stopped") else 200
        return _json_response(status, json_bytes(backend.health()))

    async def scrape(request: Request) -> Response:
        try:
            keys.check(request.headers.get("authorization"))
        except Unauthorized as error:
            return _error_response(error)
        return Response(metrics.render(), media_type=metrics.content_type)

    app.add_api_route("/health", health, methods=["GET"], openapi_extra=openapi.HEALTH)
    app.add_api_route(
        "/metrics", scrape, methods=["GET"], response_class=PlainTextResponse, openapi_extra=openapi.METRICS
    )


def _add_api(app: FastAPI, frame: Frame, method: str, path: str) -> None:
    label = path.replace(":path}", "}")

    async def endpoint(request: Request) -> Response:
        return Exchange(frame, label)

    app.add_api_route(path, endpoint, methods=[method], openapi_extra=openapi.operation(method, label))


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
