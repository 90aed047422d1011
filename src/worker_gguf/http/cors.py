"""Lets web pages of the origins in CORS_ORIGINS read the answers (fetch.spec.whatwg.org, "CORS protocol")."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from worker_gguf.errors import InvalidRequest
from worker_gguf.protocol.openai.errors import error_body
from worker_gguf.service.envelope import json_bytes

__all__ = ["Cors"]

_EXPOSED: Final = (
    "X-Request-Id",
    "Request-Id",
    "X-Ignored-Parameters",
    "X-Worker-Id",
    "X-Should-Retry",
    "Retry-After",
)
_MAX_AGE_S: Final = 3600


class Cors:
    """ASGI middleware that adds the CORS headers to answers, errors and streams.

    It answers preflight requests without an API key, because browsers cannot send one with them.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._cors = _Cors(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            # Starlette answers with the requested names: clients send custom headers, and a literal * does not include
            # Authorization.
            allow_headers=("*",),
            # Only the pages of listed origins may reach a worker on this machine or in this network.
            allow_private_network="*" not in origins,
            expose_headers=_EXPOSED,
            max_age=_MAX_AGE_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Servers, load balancers and their health checks send no Origin and skip the middleware.
        has_origin = any(name == b"origin" for name, _ in scope.get("headers", ()))
        await (self._cors if has_origin else self._app)(scope, receive, send)


class _Cors(CORSMiddleware):
    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        why = bytes(response.body).decode()
        error = InvalidRequest(f"{why}. CORS_ORIGINS lists the allowed origins; the methods are GET and POST.")
        refused = Response(json_bytes(error_body(error)), status_code=error.status, media_type="application/json")
        refused.headers.update({name: value for name, value in response.headers.items() if name not in refused.headers})
        return refused
