"""The tiny model that ships with the package, and the prompts it is known to answer.

It knows nothing of the engine: a path, and the answers that a right engine gives greedily.
"""

import json
from pathlib import Path
from typing import Any

from msgspec import Struct

MODEL_PATH = Path(__file__).with_name("model.gguf")
PROMPTS_PATH = Path(__file__).with_name("prompts.json")

__all__ = ["MODEL_PATH", "PROMPTS_PATH", "Prompt", "published_prompts"]


class Prompt(Struct, frozen=True):
    """Messages and tools are in OpenAI's shape; `expected` is the whole greedy answer."""

    name: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...]
    expected: str
    max_tokens: int


def published_prompts() -> tuple[Prompt, ...]:
    written = json.loads(PROMPTS_PATH.read_text(encoding="utf-8"))
    return tuple(
        Prompt(
            name=prompt["name"],
            messages=tuple(prompt["messages"]),
            tools=tuple(prompt.get("tools", ())),
            expected=prompt["expected"],
            max_tokens=prompt["max_tokens"],
        )
        for prompt in written
    )
