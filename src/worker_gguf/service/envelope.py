"""Encodes JSON bodies and header values, so that no value can break out of its line."""

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
    """Encode a body. An unpaired surrogate is escaped, so that it does not fail the whole answer."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def header_pairs(headers: Mapping[str, str]) -> Headers:
    """Encode headers. No value is trusted, because X-Ignored-Parameters repeats names that a client chose."""
    return [
        (name.lower().encode("ascii"), _UNSAFE_IN_HEADER.sub("?", value).encode()) for name, value in headers.items()
    ]


def request_id_from(offered: str | None) -> str:
    """Return the client's id if it is harmless in a header and a log, otherwise a new one."""
    if offered is not None and _SAFE_ID.fullmatch(offered):
        return offered
    return f"req_{uuid.uuid4().hex}"


def log_unexpected(logger: logging.Logger, error: BaseException) -> None:
    """Log the type of an unexpected error and its traceback, without its message, which may contain a prompt."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("unexpected error", extra={"error": type(error).__name__, "traceback": where})
