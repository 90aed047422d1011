"""Corrects paths from a wrong base URL: without /v1 or with two, with extra slashes, or with RunPod's /openai."""

from __future__ import annotations

from itertools import dropwhile

__all__ = ["canonical"]

_BASES = ("openai", "v1")


def canonical(path: str) -> str:
    """Return the path that a client with the right base URL would send. It may still match no route."""
    if not path.startswith("/"):
        return path
    parts = (part for part in path.split("/") if part)
    return "/".join(["", "v1", *dropwhile(_BASES.__contains__, parts)])
