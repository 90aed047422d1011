"""Errors of the Responses API: OpenAI's envelope, and an event of its own in streams."""

from __future__ import annotations

from typing import Final

from worker_gguf.protocol.dialect import Dialect, Wording
from worker_gguf.protocol.openai.errors import OPENAI
from worker_gguf.protocol.rendering import encode

__all__ = ["RESPONSES_DIALECT"]


def _event(wording: Wording) -> bytes:
    """Render an error before whose stream no response was created."""
    error = wording.error
    body = {"type": "error", "code": error.code, "message": wording.message, "param": wording.param}
    return b"event: error\ndata: " + encode(body | {"sequence_number": 0}).encode() + b"\n\n"


RESPONSES_DIALECT: Final = Dialect("responses", OPENAI.body, _event)
