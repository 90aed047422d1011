"""Reads the body of a request up to its size limit. `protocol` checks whether the content is well-formed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from worker_gguf.errors import InvalidRequest, PayloadTooLarge
from worker_gguf.protocol.wellformed import read_json

__all__ = ["ClientGone", "Receive", "over_limit", "parse_body", "read_body"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """The client closed the connection before it received its answer."""


async def read_body(receive: Receive, content_length: str | None, limit_bytes: int) -> bytes:
    """Read the body. Raises PayloadTooLarge as soon as it exceeds `limit_bytes`, and ClientGone."""
    # 20 digits are enough for every size that fits, and int() raises an error for thousands of digits.
    if content_length and content_length.isdecimal() and int(content_length[:20]) > limit_bytes:
        raise over_limit("The body", limit_bytes)
    parts: list[bytes] = []
    n_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        n_bytes += len(part)
        if n_bytes > limit_bytes:
            raise over_limit("The body", limit_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def parse_body(raw: bytes) -> object:
    """Parse a JSON body. Raises InvalidRequest.

    Its Content-Type is ignored, because many clients send JSON with another one or without any.
    """
    if not raw.strip():
        raise InvalidRequest("The body is empty. Send a JSON object.")
    return read_json(raw)


def over_limit(what: str, limit_bytes: int) -> PayloadTooLarge:
    """Return the error for a body that is too long. `MAX_BODY_MB` is in MB, and clients count bytes."""
    size = f"{limit_bytes / (1 << 20):g} MB ({limit_bytes} bytes)"
    return PayloadTooLarge(f"{what} is over the limit of {size}. Shorten it or raise MAX_BODY_MB.")
