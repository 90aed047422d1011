"""Retries a path without a route, without extra slashes and with the right base URL, before it is refused."""

from __future__ import annotations

from starlette.routing import Match, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from worker_gguf.protocol.paths import canonical

__all__ = ["Retried"]


class Retried:
    """The router's `default`, so that paths with a route cost nothing. `refuse` answers paths that have none."""

    def __init__(self, router: Router, refuse: ASGIApp) -> None:
        self._router = router
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        for other in ("/" + "/".join(part for part in path.split("/") if part), canonical(path)):
            retried = {**scope, "path": other}
            if other != path and self._has_route(retried):
                await self._router(retried, receive, send)
                return
        await self._refuse(scope, receive, send)

    def _has_route(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is not Match.NONE for route in self._router.routes)
