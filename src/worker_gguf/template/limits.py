"""Limits the time and the output of one rendering of a chat template.

A template comes from a model file or the operator; clients cannot send one. The sandbox prevents access to Python. The
limits stop broken templates: endless loops and recursion end at the next call or the next piece of output. A single
long operation, for example `9 ** 99999999`, is not stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic

from msgspec import Struct

__all__ = ["LimitExceeded", "TemplateLimits", "check_time", "joined", "limited"]


class LimitExceeded(Exception):
    """The template exceeded one of the `TemplateLimits`."""


class TemplateLimits(Struct, frozen=True):
    """The limits. Sizes are in characters; a prompt of a million tokens has about four million."""

    max_source: int = 1_000_000
    max_output: int = 16 * 2**20
    timeout_s: float = 5.0


class _Rendering(Struct, frozen=True):
    limits: TemplateLimits
    deadline_s: float


# This is a context variable because one compiled template can be rendered in several threads at the same time.
_current: ContextVar[_Rendering] = ContextVar("template_rendering")


@contextmanager
def limited(limits: TemplateLimits) -> Iterator[None]:
    """Limit the rendering inside this context, whose time starts now, or several renderings together."""
    outer = _current.get(None)
    deadline_s = monotonic() + limits.timeout_s
    token = _current.set(_Rendering(limits, deadline_s if outer is None else min(deadline_s, outer.deadline_s)))
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
    """Join the pieces of a template's output. Raises LimitExceeded if it is too long or takes too long."""
    most = _current.get().limits.max_output
    kept: list[str] = []
    size = 0
    for piece in pieces:
        check_time()
        size += len(piece)
        if size > most:
            raise LimitExceeded(f"its output has more than {most} characters")
        kept.append(piece)
    return "".join(kept)
