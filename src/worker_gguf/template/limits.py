"""Limits for one rendering of a chat template: its time, and the length of its text.

A template comes with a model file or from the operator; clients cannot send one. The sandbox keeps it from reaching
Python. These limits stop a broken template: endless loops and recursion end at the next call or the next piece of
output. A single long operation, such as `9 ** 99999999`, is not stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic

__all__ = ["LimitExceeded", "TemplateLimits", "check_time", "joined", "limited"]


class LimitExceeded(Exception):
    """The template exceeded one of the `TemplateLimits`."""


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """Sizes in characters. They are far above any real prompt: a million tokens are about four million characters."""

    max_source: int = 1_000_000
    max_output: int = 16 * 2**20
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class _Rendering:
    limits: TemplateLimits
    deadline_s: float


# A context variable, because one compiled template renders in several threads.
_current: ContextVar[_Rendering] = ContextVar("template_rendering")


@contextmanager
def limited(limits: TemplateLimits) -> Iterator[None]:
    """Start the clock for the rendering inside this context."""
    token = _current.set(_Rendering(limits, monotonic() + limits.timeout_s))
    try:
        yield
    finally:
        _current.reset(token)


def check_time() -> None:
    """Raise LimitExceeded after the deadline of the rendering that runs in this thread."""
    rendering = _current.get()
    if monotonic() > rendering.deadline_s:
        raise LimitExceeded(f"it ran for more than {rendering.limits.timeout_s:g} seconds")


def joined(pieces: Iterable[str]) -> str:
    """Join the output of a template piece by piece. Raises LimitExceeded if it is too long or takes too long."""
    most = _current.get().limits.max_output
    kept: list[str] = []
    size = 0
    for piece in pieces:
        check_time()
        size += len(piece)
        if size > most:
            raise LimitExceeded(f"it makes a text of more than {most} characters")
        kept.append(piece)
    return "".join(kept)
