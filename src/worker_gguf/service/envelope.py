"""Encodes JSON bodies and headers, and chooses safe request ids."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import traceback
import uuid
from collections.abc import Iterator, Mapping

from worker_gguf.protocol.rendering import JsonBody
from worker_gguf.service.threads import is_long

__all__ = [
    "Headers",
    "encoded",
    "header_pairs",
    "json_bytes",
    "log_unexpected",
    "request_id_from",
]

Headers = list[tuple[bytes, bytes]]

# So many numbers or texts of a list are encoded at once.
_SLICE = 1024
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_UNSAFE_IN_HEADER = re.compile(r"[^\x20-\x7e]")


def json_bytes(body: JsonBody) -> bytes:
    """Encode a body. An unpaired surrogate is written as an escape, because it must not make the answer fail."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


async def encoded(body: JsonBody) -> bytes:
    """Encode an answer. A long one is encoded in another thread, in pieces: `json.dumps` lets no other thread run."""
    if not is_long(body):
        return json_bytes(body)
    return await asyncio.to_thread(lambda: b"".join(_pieces(body)))


def _pieces(value: object) -> Iterator[bytes]:
    """Encode a value so that no piece takes long: the fields of objects and the items of lists one by one."""
    if not is_long(value) or not isinstance(value, dict | list):
        yield json_bytes(value)
    elif isinstance(value, dict):
        for place, (name, field) in enumerate(value.items()):
            yield (b"," if place else b"{") + json_bytes(name) + b":"
            yield from _pieces(field)
        yield b"}"
    else:
        for start in range(0, len(value), _SLICE):
            items = value[start : start + _SLICE]
            yield b"," if start else b"["
            if any(isinstance(item, dict | list) for item in items):
                for place, item in enumerate(items):
                    yield b"," if place else b""
                    yield from _pieces(item)
            else:
                yield json_bytes(items)[1:-1]
        yield b"]"


def header_pairs(headers: Mapping[str, str]) -> Headers:
    """Encode headers for ASGI.

    Control characters in values are replaced, because X-Ignored-Parameters has names that a client chose.
    """
    return [
        (name.lower().encode("ascii"), _UNSAFE_IN_HEADER.sub("?", value).encode()) for name, value in headers.items()
    ]


def request_id_from(offered: str | None) -> str:
    """Return the client's request id if it is safe in headers and logs, else a new one."""
    if offered is not None and _SAFE_ID.fullmatch(offered):
        return offered
    return f"req_{uuid.uuid4().hex}"


def log_unexpected(logger: logging.Logger, error: BaseException) -> None:
    """Log an unexpected error with its type and traceback, but not its message, which may contain a prompt."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("unexpected error", extra={"error": type(error).__name__, "traceback": where})
