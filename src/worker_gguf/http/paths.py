"""Corrects a path that no route matches: removes extra slashes, or replaces the base URL, and routes it again."""

from __future__ import annotations

from starlette.routing import Match, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from worker_gguf.protocol.paths import canonical, without_base

__all__ = ["Retried"]


class Retried:
    """The `default` app of a router, so that correct paths cost nothing.

    `refuse` answers paths that no route matches even after the correction.
    """

    def __init__(self, router: Router, refuse: ASGIApp) -> None:
        self._router = router
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        whole = "/" + "/".join(part for part in path.split("/") if part)
        for other in (whole, canonical(path), without_base(path)):
            retried = {**scope, "path": other}
            if other != path and self._has_route(retried):
                await self._router(retried, receive, send)
                return
        await self._refuse(scope, receive, send)

    def _has_route(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is not Match.NONE for route in self._router.routes)
