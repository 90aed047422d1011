"""Reads the bytes of a request body up to its limit. `protocol` decides whether they are a well-formed body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from worker_gguf.errors import InvalidRequest, PayloadTooLarge
from worker_gguf.protocol.wellformed import read_json

__all__ = ["ClientGone", "Receive", "parse_body", "read_body"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""


async def read_body(receive: Receive, content_length: str | None, limit_bytes: int) -> bytes:
    """Read the body. Raises PayloadTooLarge as soon as it is known to be larger than `limit_bytes`."""
    # No body that fits has a length of 20 digits, and int() refuses to read thousands of them.
    if content_length and content_length.isdecimal() and int(content_length[:20]) > limit_bytes:
        raise _too_large(limit_bytes)
    parts: list[bytes] = []
    n_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        n_bytes += len(part)
        if n_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def parse_body(raw: bytes) -> object:
    """Parse a body as JSON. Ignores Content-Type, because many clients send JSON with another type or with none."""
    if not raw.strip():
        raise InvalidRequest("The body is empty. Send a JSON object.")
    return read_json(raw)


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is over the limit of {limit_bytes} bytes. Shorten it or raise MAX_BODY_MB.")
