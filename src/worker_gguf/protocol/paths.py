"""Corrects paths from a wrong base URL: without /v1 or with two, with extra slashes, or with RunPod's /openai.

Ollama's routes begin with /api, and have no /v1.
"""

from __future__ import annotations

from itertools import dropwhile

__all__ = ["canonical", "without_base"]

_BASES = ("openai", "v1")


def canonical(path: str) -> str:
    """Return the path that a client with the right base URL would send. It may still match no route."""
    bare = without_base(path)
    return bare if bare.startswith("/api/") or not path.startswith("/") else f"/v1{bare}"


def without_base(path: str) -> str:
    """Return a path without a base URL in it and without extra slashes, for routes outside of /v1."""
    if not path.startswith("/"):
        return path
    parts = dropwhile(_BASES.__contains__, (part for part in path.split("/") if part))
    return "".join(f"/{part}" for part in parts)
