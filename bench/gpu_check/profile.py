"""The work of the check: on a card, and on the processor, where only the check itself is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CARD", "CPU", "PARTS", "Part", "Profile"]


@dataclass(frozen=True, slots=True)
class Part:
    """A part with its share of the time, in seconds, and the models that it needs: `dense` and `experts`."""

    name: str
    budget_s: float
    models: tuple[str, ...] = ()


# The first parts need only the dense model, so that the other one, 11 GB, is written meanwhile. Expected on an H200,
# from its times on 2026-11-27: 8, 6, 15, 15, 80 and 180 s.
PARTS = (
    Part("prompts", 40),
    Part("offload", 30, ("dense",)),
    Part("crash", 45, ("dense",)),
    Part("plan", 50, ("dense", "experts")),
    Part("bench-dense", 120, ("dense",)),
    Part("bench-experts", 220, ("experts",)),
)


@dataclass(frozen=True, slots=True)
class Profile:
    """`models` are names of shapes in `bench.models`. `waves` are requests for each connection, by `concurrency`.

    `settings` are variables for every worker. `layers` is llama-server's value of `-ngl`. `patience` is a factor for
    the time of the parts.
    """

    is_card: bool
    models: Mapping[str, str]
    concurrency: tuple[int, ...]
    waves: tuple[int, ...]
    settings: Mapping[str, str]
    layers: int
    patience: float = 1.0


CARD = Profile(True, {"dense": "1b", "experts": "moe-8x3b"}, (1, 8, 32, 64), (8, 4, 3, 2), {}, 999)
# LOAD_MODE=none: weights in memory of the process, and not in mapped pages, so that its growth shows them. One thread:
# two wait for each other in every step, and the processor may be busy.
CPU = Profile(
    False,
    {"dense": "tiny", "experts": "tiny-moe"},
    (1, 2),
    (1, 1),
    {"N_GPU_LAYERS": "0", "LOAD_MODE": "none", "N_PARALLEL": "2", "N_THREADS": "1"},
    0,
    patience=4.0,
)
