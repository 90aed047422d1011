"""The error envelope of llama-server's routes. Its streams end without a mark."""

from __future__ import annotations

from typing import Any, Final

from worker_gguf.errors import ContextLengthExceeded, NotFound
from worker_gguf.protocol.dialect import Dialect, Wording
from worker_gguf.protocol.rendering import encode

__all__ = ["LLAMA_SERVER"]


def _body(wording: Wording) -> dict[str, Any]:
    """Render an error. `code` is the HTTP status; `param` is not part of llama-server's errors."""
    error = wording.error
    envelope: dict[str, Any] = {
        "code": error.status,
        "message": wording.message,
        "type": error.kind,
        "param": wording.param,
    }
    if isinstance(error, NotFound):
        envelope["type"] = "not_found_error"
    if isinstance(error, ContextLengthExceeded):
        envelope |= {"type": "exceed_context_size_error", "n_prompt_tokens": error.n_prompt_tokens}
        envelope["n_ctx"] = error.n_ctx
    return {"error": envelope}


def _ending(wording: Wording) -> bytes:
    return f"data: {encode(_body(wording))}\n\n".encode()


LLAMA_SERVER: Final = Dialect("llama_server", _body, _ending)
