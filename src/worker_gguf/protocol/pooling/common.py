"""Parses what the routes for vectors and scores have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from worker_gguf.errors import InvalidRequest
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.pooling.bodies import PoolingBody
from worker_gguf.protocol.pooling.calls import Truncation
from worker_gguf.protocol.screening import unknown_names
from worker_gguf.protocol.validation import invalid

__all__ = ["Shared", "check_texts", "shared", "truncation_of"]


class Shared(TypedDict):
    """The fields of a PoolingCall that all routes read in the same way."""

    model: str | None
    truncation: Truncation | None
    priority: int
    timeout_s: float | None
    ignored: tuple[str, ...]


def shared(body: PoolingBody, fields: Mapping[str, Any], defaults: Defaults) -> Shared:
    """Read the shared fields. Raises InvalidRequest."""
    return Shared(
        model=body.model or None,
        truncation=truncation_of(body),
        priority=body.priority or 0,
        timeout_s=body.timeout,
        ignored=unknown_names(type(body), fields, defaults),
    )


def truncation_of(body: PoolingBody) -> Truncation | None:
    """Return what an input loses that is too long. Raises InvalidRequest if two fields contradict each other."""
    most = body.truncate_prompt_tokens
    if most == 0:
        raise invalid("truncate_prompt_tokens", "must be -1, or at least 1")
    if most is not None:
        if body.truncate is not None:
            raise _both("truncate_prompt_tokens", "truncate")
        return Truncation("start", None if most == -1 else most)
    truncate = body.truncate.lower() if isinstance(body.truncate, str) else body.truncate
    if truncate is None or truncate is False or truncate == "none":
        return None
    if truncate is True:
        return Truncation("start" if (body.truncation_direction or "right").lower() == "left" else "end")
    if body.truncation_direction is not None:
        raise _both("truncate", "truncation_direction")
    return Truncation("start" if truncate == "start" else "end")


def check_texts(param: str, texts: Iterable[str]) -> None:
    """Raise InvalidRequest if a text is empty."""
    for place, text in enumerate(texts):
        if not text:
            raise invalid(f"{param}.{place}", "must not be empty")


def _both(first: str, second: str) -> InvalidRequest:
    message = f"'{first}' and '{second}' both say what a long input loses. Send one of them."
    return InvalidRequest(message, param=second)
