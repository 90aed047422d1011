"""What is read of a request before its model is there: its name, whether it is one at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from worker_gguf.protocol.calls import Defaults, parse_chat, parse_completion
from worker_gguf.service.service import beside_loop
from worker_gguf.settings import Settings

__all__ = ["check", "wanted_name"]

_PARSERS: Mapping[str, Callable[[object, Defaults], object]] = {
    "/v1/chat/completions": parse_chat,
    "/v1/completions": parse_completion,
}


def wanted_name(body: object) -> str | None:
    """The model it asks for. What is no text will be refused by whoever reads the whole body."""
    name: Any = body.get("model") if isinstance(body, dict) else None
    return name if isinstance(name, str) else None


async def check(route: str, body: object, settings: Settings) -> None:
    """Raises the WorkerError that any model would refuse it with: no model is loaded for a request that cannot be."""
    if (parse := _PARSERS.get(route)) is not None:
        defaults = Defaults(settings.sampling_defaults(), settings.max_tokens, settings.strict_parameters)
        await beside_loop(body, lambda body: parse(body, defaults))
