"""Paths that are nearly a route's: a base URL without /v1 or with it twice, a slash too many, RunPod's /openai."""

from __future__ import annotations

from itertools import dropwhile

__all__ = ["canonical"]

_BASES = ("openai", "v1")


def canonical(path: str) -> str:
    """Return the path that clients with the right base URL would send; whether it leads anywhere is not looked at."""
    if not path.startswith("/"):
        return path
    parts = (part for part in path.split("/") if part)
    return "/".join(["", "v1", *dropwhile(_BASES.__contains__, parts)])
