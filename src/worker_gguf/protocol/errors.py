"""Renders errors: the form of errors in a dialect, and the error envelope of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from worker_gguf.errors import ContextLengthExceeded, WorkerError

__all__ = ["DONE", "OPENAI_ERRORS", "ErrorShape", "error_body", "error_event"]

DONE: Final = b"data: [DONE]\n\n"


class ErrorShape(Struct, frozen=True):
    """The form of an error in a dialect: the JSON of a whole answer, and the events that end a stream."""

    body: Callable[[WorkerError], dict[str, Any]]
    ending: Callable[[WorkerError], bytes]


def error_body(error: WorkerError) -> dict[str, Any]:
    """Render an error. As in llama-server, the error for a prompt that is too long has both numbers of tokens."""
    envelope: dict[str, Any] = {
        "message": error.message,
        "type": error.kind,
        "param": error.param,
        "code": error.code,
    }
    if isinstance(error, ContextLengthExceeded):
        envelope |= {"n_prompt_tokens": error.n_prompt_tokens, "n_ctx": error.n_ctx}
    return {"error": envelope}


def error_event(error: WorkerError) -> bytes:
    """Render an error as the last server-sent event of a stream. It is ASCII, like all events."""
    return b"data: " + json.dumps(error_body(error), separators=(",", ":")).encode() + b"\n\n"


OPENAI_ERRORS: Final = ErrorShape(error_body, lambda error: error_event(error) + DONE)
