"""GET /ping, by which the platform decides whether to send requests to this worker."""

from __future__ import annotations

from starlette.types import Message, Receive, Scope, Send

from worker_gguf.observe.status import Status
from worker_gguf.service.backend import Backend

__all__ = ["Ping"]

# RunPod's load balancer: 204 is "initialising", 200 is "healthy". After any other status it sends no requests.
_PING_STATUS: dict[Status, int] = {
    "starting": 204,
    "ready": 200,
    "reloading": 204,
    "draining": 503,
    "stopped": 503,
    "failed": 503,
}
_BODY: Message = {"type": "http.response.body", "body": b""}


class Ping:
    """An ASGI app that answers with a status and no body, and logs nothing."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = _PING_STATUS[self._backend.status()]
        headers = [] if status == 204 else [(b"content-length", b"0")]
        if status == 503:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(_BODY)
