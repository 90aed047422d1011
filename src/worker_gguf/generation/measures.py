"""Adds the reports of an engine process to the engine's counters."""

from __future__ import annotations

from worker_gguf.engine.stats import EngineStats
from worker_gguf.link.messages import Step

__all__ = ["measure"]


def measure(stats: EngineStats, step: Step) -> None:
    """Count what a turn of the engine's loop did."""
    if step.n_batch_tokens:
        stats.count_batch(step.n_batch_tokens)
    stats.schedule_seconds += step.schedule_seconds
    stats.decode_seconds += step.decode_seconds
    stats.sample_seconds += step.sample_seconds
    stats.guessed_tokens += step.guessed
    stats.guessed_right_tokens += step.guessed_right
    stats.drafted_tokens += step.drafted
    stats.drafted_right_tokens += step.drafted_right
    stats.draft_seconds += step.draft_seconds
    stats.constrained_tokens += step.constrained
    stats.mask_seconds += step.mask_seconds
    stats.adapter_switches += step.switched
    stats.switch_seconds += step.switch_seconds
    stats.images_encoded += step.images_encoded
    stats.images_reused += step.images_reused
    stats.image_seconds += step.image_seconds
    stats.busy_slots, stats.waiting, stats.held_tokens = step.busy_slots, step.waiting, step.held_tokens
    stats.saved_bytes = step.saved_bytes
