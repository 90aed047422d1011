"""Where an endpoint is reached: the addresses that RunPod describes with it, and the curl for its users."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker_gguf.deployment.manifest import Mode
from worker_gguf.deployment.wanted import Body

__all__ = ["BalancedAddress", "QueueAddress", "address_of", "curl"]

_QUESTION: Final[Mapping[str, Any]] = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 32}


@dataclass(frozen=True, slots=True)
class QueueAddress:
    """`base` is https://api.runpod.ai/v2/ID."""

    base: str

    @property
    def openai(self) -> str:
        return f"{self.base}/openai/v1"


@dataclass(frozen=True, slots=True)
class BalancedAddress:
    base: str
    health: str

    @property
    def openai(self) -> str:
        return f"{self.base}/v1"


def address_of(endpoint: Body, mode: Mode) -> QueueAddress | BalancedAddress:
    """Read `requestUrls`, which older endpoints lack: then as RunPod's documentation writes them."""
    urls, id_ = endpoint.get("requestUrls"), endpoint["id"]
    known = urls if isinstance(urls, Mapping) else {}
    if mode == "queue":
        run = str(known.get("run") or f"https://api.runpod.ai/v2/{id_}/run")
        return QueueAddress(run.removesuffix("/run"))
    base = str(known.get("base") or f"https://{id_}.api.runpod.ai").rstrip("/")
    return BalancedAddress(base, str(known.get("health") or f"{base}/ping"))


def curl(address: QueueAddress | BalancedAddress) -> str:
    """A command to paste; the key comes from the shell."""
    return (
        f"curl {address.openai}/chat/completions \\\n"
        '  -H "Authorization: Bearer $RUNPOD_API_KEY" -H "Content-Type: application/json" \\\n'
        f"  -d '{json.dumps(_QUESTION)}'"
    )
