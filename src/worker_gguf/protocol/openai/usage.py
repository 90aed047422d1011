"""Adds up the usage of an answer over its choices."""

from __future__ import annotations

from typing import Any

from worker_gguf.generation.events import Usage

__all__ = ["usage_body"]


def usage_body(choices: dict[int, Usage], n: int, reasoning_tokens: int = 0) -> dict[str, Any]:
    """Add up the usage of choices. Choices `k*n ... k*n + n-1` share prompt k, which is counted once.

    The cached tokens of a prompt are the minimum over its choices, because this answer computed the tokens that only
    some of its choices found in the cache.
    """
    prompts: dict[int, list[Usage]] = {}
    for index, usage in choices.items():
        prompts.setdefault(index // n, []).append(usage)
    prompt_tokens = sum(usages[0].prompt_tokens for usages in prompts.values())
    completion_tokens = sum(usage.completion_tokens for usage in choices.values())
    cached_tokens = sum(min(usage.cached_tokens for usage in usages) for usages in prompts.values())
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }
