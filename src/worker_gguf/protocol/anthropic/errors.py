"""The errors of Anthropic's API, and its keep-alive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from worker_gguf.errors import ContextLengthExceeded, WorkerError
from worker_gguf.protocol.dialect import SSE, Dialect, Framing, Wording
from worker_gguf.protocol.rendering import encode

__all__ = ["ANTHROPIC", "PING", "event"]

_OVERLOADED: Final = 529
_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    _OVERLOADED: "overloaded_error",
}


def event(body: Mapping[str, Any]) -> bytes:
    """Render one event of a stream. Its name is the type of its body."""
    return f"event: {body['type']}\ndata: {encode(body)}\n\n".encode()


PING: Final = event({"type": "ping"})


def _status(error: WorkerError) -> int:
    """Return the status of an error: Anthropic's own one where the worker cannot answer for a while."""
    return _OVERLOADED if error.kind == "unavailable_error" else error.status


def _body(wording: Wording) -> dict[str, Any]:
    error, message = wording.error, wording.message
    if isinstance(error, ContextLengthExceeded):
        # Claude Code compacts its history if a message has these words, and reads the two numbers. One token must be
        # left for the answer.
        message = f"prompt is too long: {error.n_prompt_tokens} tokens > {error.n_ctx - 1} maximum. {message}"
    status = _status(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    body = {"type": "error", "error": {"type": kind, "message": message}}
    return body | {"request_id": wording.request_id or None}


ANTHROPIC: Final = Dialect(
    "anthropic",
    _body,
    lambda wording: event(_body(wording)),
    framing=Framing(SSE.media_type, PING),
    status=_status,
    id_headers=("X-Request-Id", "Request-Id"),
)
