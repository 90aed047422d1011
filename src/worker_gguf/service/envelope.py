"""Values to bytes and headers: JSON bodies, error envelopes, header values that cannot break out of their line."""

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
    """Encode a body. An unpaired surrogate becomes an escape instead of failing the answer."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def header_pairs(headers: Mapping[str, str]) -> Headers:
    """Encode headers. X-Ignored-Parameters repeats names that a client chose, so no value is trusted."""
    return [
        (name.lower().encode("ascii"), _UNSAFE_IN_HEADER.sub("?", value).encode()) for name, value in headers.items()
    ]


def request_id_from(offered: str | None) -> str:
    """Take the client's id when it is harmless in a header and a log, else make one."""
    if offered is not None and _SAFE_ID.fullmatch(offered):
        return offered
    return f"req_{uuid.uuid4().hex}"


def log_unexpected(logger: logging.Logger, error: BaseException) -> None:
    """Log a bug: its type and where it happened. Its message is left out, for it may quote a prompt."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("unexpected error", extra={"error": type(error).__name__, "traceback": where})
