"""A request's JSON body, up to a limit."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

__all__ = ["BadRequest", "read_json"]


class BadRequest(Exception):
    """The fault of a request, in a few words, and the status of the answer."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


async def read_json(request: Request, most_bytes: int) -> Any:
    """Raises BadRequest where the body is over the limit or no JSON."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most_bytes:
            raise BadRequest(f"the body is over {most_bytes >> 20} MB", 413)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
