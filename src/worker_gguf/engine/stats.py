"""The engine's counters, kept in the worker process. They may be one step old."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from msgspec import Struct, field

__all__ = ["BATCH_BOUNDS", "EngineStats"]

BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class EngineStats(Struct):
    """Totals since the start. `busy_slots`, `waiting`, `held_tokens` and `saved_bytes` are current values.

    `batch_sizes[i]` counts steps of at most `BATCH_BOUNDS[i]` tokens; the last item counts larger ones.
    """

    n_slots: int = 0
    n_cells: int = 0
    max_queue: int = 0
    busy_slots: int = 0
    waiting: int = 0
    held_tokens: int = 0
    saved_bytes: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    guessed_tokens: int = 0
    guessed_right_tokens: int = 0
    drafted_tokens: int = 0
    drafted_right_tokens: int = 0
    constrained_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    batch_sizes: list[int] = field(default_factory=lambda: [0] * (len(BATCH_BOUNDS) + 1))
    batch_tokens: int = 0
    decode_seconds: float = 0.0
    sample_seconds: float = 0.0
    schedule_seconds: float = 0.0
    draft_seconds: float = 0.0
    mask_seconds: float = 0.0
    adapter_switches: int = 0
    switch_seconds: float = 0.0
    images_encoded: int = 0
    images_reused: int = 0
    image_seconds: float = 0.0

    def count_batch(self, n_tokens: int) -> None:
        self.steps += 1
        self.batch_tokens += n_tokens
        self.batch_sizes[bisect_left(BATCH_BOUNDS, n_tokens)] += 1
