"""Encodes JSON bodies and headers, and chooses safe request ids."""

from __future__ import annotations

import json
import logging
import re
import traceback
import uuid
from collections.abc import Mapping
from typing import Any

__all__ = [
    "Headers",
    "header_pairs",
    "json_bytes",
    "log_unexpected",
    "request_id_from",
]

Headers = list[tuple[bytes, bytes]]

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_UNSAFE_IN_HEADER = re.compile(r"[^\x20-\x7e]")


def json_bytes(body: Mapping[str, Any]) -> bytes:
    """Encode a body. An unpaired surrogate is written as an escape, because it must not make the answer fail."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


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
