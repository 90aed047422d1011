"""Adds up the numbers of engines, including those of closed engines, so that counters never fall."""

from __future__ import annotations

from collections.abc import Iterable

from worker_gguf.engine.stats import EngineStats

__all__ = ["of_the_past", "total"]

_COUNTED = (
    "steps",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "guessed_tokens",
    "guessed_right_tokens",
    "drafted_tokens",
    "drafted_right_tokens",
    "constrained_tokens",
    "batch_tokens",
    "decode_seconds",
    "sample_seconds",
    "schedule_seconds",
    "draft_seconds",
    "mask_seconds",
    "adapter_switches",
    "switch_seconds",
    "images_encoded",
    "images_reused",
    "image_seconds",
)
_CURRENT = ("n_slots", "n_cells", "max_queue", "busy_slots", "waiting", "held_tokens", "saved_bytes")


def total(engines: Iterable[EngineStats]) -> EngineStats:
    """Add up the current numbers and the counters of all engines."""
    return _sum(engines, (*_CURRENT, *_COUNTED))


def of_the_past(engines: Iterable[EngineStats]) -> EngineStats:
    """Add up only the counters, for engines that are closed."""
    return _sum(engines, _COUNTED)


def _sum(engines: Iterable[EngineStats], names: Iterable[str]) -> EngineStats:
    added = EngineStats()
    for stats in engines:
        for name in names:
            setattr(added, name, getattr(added, name) + getattr(stats, name))
        added.finished.update(dict(stats.finished))
        added.batch_sizes = [a + b for a, b in zip(added.batch_sizes, stats.batch_sizes, strict=True)]
    return added
