"""Corrects paths from a wrong base URL: without /v1 or with two, with extra slashes, or with RunPod's /openai.

Ollama's routes begin with /api, and have no /v1.
"""

from __future__ import annotations

from itertools import dropwhile

__all__ = ["canonical"]

_BASES = ("openai", "v1")


def canonical(path: str) -> str:
    """Return the path that a client with the right base URL would send. It may still match no route."""
    if not path.startswith("/"):
        return path
    parts = list(dropwhile(_BASES.__contains__, (part for part in path.split("/") if part)))
    base = [] if parts[:1] == ["api"] else ["v1"]
    return "/".join(["", *base, *parts])
