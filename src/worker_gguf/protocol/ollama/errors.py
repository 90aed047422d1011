"""The errors and the framing of Ollama's API: one sentence, and streams of lines of JSON."""

from __future__ import annotations

import json
from typing import Any, Final

from worker_gguf.errors import QueueFull, WorkerError
from worker_gguf.protocol.dialect import Dialect, Framing, Wording
from worker_gguf.protocol.models import ModelNotServed

__all__ = ["OLLAMA"]

# A space is harmless before a line of JSON. An empty line is not: Ollama's own Python client parses each line.
_LINES: Final = Framing("application/x-ndjson", b" ")


def _body(wording: Wording) -> dict[str, Any]:
    error = wording.error
    if isinstance(error, ModelNotServed):
        # Clients look for the words of Ollama, with which this begins.
        return {"error": f"model '{error.model}' not found. This worker serves {error.served}."}
    return {"error": wording.message}


def _line(wording: Wording) -> bytes:
    return json.dumps(_body(wording), separators=(",", ":")).encode() + b"\n"


def _status(error: WorkerError) -> int:
    """Return the status: Ollama's for a full queue is 503."""
    return 503 if isinstance(error, QueueFull) else error.status


OLLAMA: Final = Dialect("ollama", _body, _line, _LINES, _status)
