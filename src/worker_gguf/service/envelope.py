"""Values to bytes and headers: JSON bodies, error envelopes, header values that cannot break out of their line."""

from __future__ import annotations

import json
import logging
import re
import traceback
import uuid
from collections.abc import Mapping
from typing import Any

from worker_gguf.errors import DeadlineExceeded, Unauthorized, WorkerError
from worker_gguf.protocol.errors import error_body

__all__ = [
    "Headers",
    "error_bytes",
    "error_event",
    "error_headers",
    "header_pairs",
    "json_bytes",
    "log_unexpected",
    "request_id_from",
]

Headers = list[tuple[bytes, bytes]]

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_UNSAFE_IN_HEADER = re.compile(r"[^\x20-\x7e]")


def json_bytes(body: Mapping[str, Any]) -> bytes:
    """Encode a body; what is no character at all becomes an escape instead of a failed answer."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def error_bytes(error: WorkerError) -> bytes:
    """OpenAI's envelope of an error."""
    return json_bytes(error_body(error))


def error_event(error: WorkerError) -> bytes:
    """The server-sent event that ends a stream which failed on the way."""
    return b"data: " + error_bytes(error) + b"\n\n"


def header_pairs(headers: Mapping[str, str]) -> Headers:
    """Encode headers. X-Ignored-Parameters repeats names that a client chose, so no value is trusted."""
    return [
        (name.lower().encode("ascii"), _UNSAFE_IN_HEADER.sub("?", value).encode()) for name, value in headers.items()
    ]


def error_headers(error: WorkerError) -> dict[str, str]:
    """The headers an error brings along."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, DeadlineExceeded):
        headers["X-Should-Retry"] = "false"  # OpenAI's clients try a 5xx again unless they are told
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def request_id_from(offered: str | None) -> str:
    """Take the client's id when it is harmless in a header and a log, else make one."""
    if offered is not None and _SAFE_ID.fullmatch(offered):
        return offered
    return f"req_{uuid.uuid4().hex}"


def log_unexpected(logger: logging.Logger, error: BaseException) -> None:
    """Log a bug: its type and where it happened. Its message is left out, for it may quote a prompt."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("unexpected error", extra={"error": type(error).__name__, "traceback": where})
