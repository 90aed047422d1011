"""The addresses of an endpoint, and an example request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker_gguf.deployment.manifest import Mode
from worker_gguf.deployment.wanted import Body

__all__ = ["Address", "address_of", "curl"]

_QUESTION: Final[Mapping[str, Any]] = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 32}


@dataclass(frozen=True, slots=True)
class Address:
    """`base` is https://api.runpod.ai/v2/ID for a queue, which has no health check of its own."""

    base: str
    openai: str
    health: str | None


def address_of(endpoint: Body, mode: Mode) -> Address:
    """Read `requestUrls`. Older endpoints have none, and then the documented addresses apply."""
    urls, id_ = endpoint.get("requestUrls"), endpoint["id"]
    known = urls if isinstance(urls, Mapping) else {}
    if mode == "queue":
        base = str(known.get("run") or f"https://api.runpod.ai/v2/{id_}/run").removesuffix("/run")
        return Address(base, f"{base}/openai/v1", None)
    base = str(known.get("base") or f"https://{id_}.api.runpod.ai").rstrip("/")
    return Address(base, f"{base}/v1", str(known.get("health") or f"{base}/ping"))


def curl(address: Address) -> str:
    """A command for the shell, which inserts the key."""
    return (
        f"curl {address.openai}/chat/completions \\\n"
        '  -H "Authorization: Bearer $RUNPOD_API_KEY" -H "Content-Type: application/json" \\\n'
        f"  -d '{json.dumps(_QUESTION)}'"
    )
