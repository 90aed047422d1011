"""The error envelope of OpenAI's API, and the end of its streams."""

from __future__ import annotations

import json
from typing import Any, Final

from worker_gguf.errors import ContextLengthExceeded, WorkerError
from worker_gguf.protocol.dialect import Dialect, Wording

__all__ = ["DONE", "OPENAI", "error_body", "error_event"]

DONE: Final = b"data: [DONE]\n\n"


def _body(wording: Wording) -> dict[str, Any]:
    """Render an error. As in llama-server, the error for a prompt that is too long has both numbers of tokens."""
    error = wording.error
    envelope: dict[str, Any] = {
        "message": wording.message,
        "type": error.kind,
        "param": wording.param,
        "code": error.code,
    }
    if isinstance(error, ContextLengthExceeded):
        envelope |= {"n_prompt_tokens": error.n_prompt_tokens, "n_ctx": error.n_ctx}
    return {"error": envelope}


def _event(wording: Wording) -> bytes:
    """Render an error as the last server-sent event of a stream. It is ASCII, like all events."""
    return b"data: " + json.dumps(_body(wording), separators=(",", ":")).encode() + b"\n\n"


OPENAI: Final = Dialect("openai", _body, lambda wording: _event(wording) + DONE)


def error_body(error: WorkerError) -> dict[str, Any]:
    """Render an error that belongs to no route."""
    return OPENAI.error_body(error)


def error_event(error: WorkerError) -> bytes:
    """Render an error of OpenAI's API as one event, without the end of the stream."""
    return _event(Wording(error, ""))
