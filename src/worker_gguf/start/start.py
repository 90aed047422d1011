"""The value that all phases of a start share: the settings, the timeline and the gate for progress reports."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from msgspec import Struct, field

from worker_gguf.observe.timeline import Phase, Timeline
from worker_gguf.settings import Settings

__all__ = ["CANCELLED", "SHUTTING_DOWN", "ProgressGate", "Start"]

CANCELLED = "Startup was cancelled."
SHUTTING_DOWN = "The worker is shutting down. Try again: another worker will answer."

ProgressGate = Callable[[str, float], bool]
"""Called with the name of a phase and the fraction of it that is done, 0 to 1. Returns False to cancel the start."""


def _open_gate(_phase: str, _fraction: float) -> bool:
    return True


class Start(Struct, frozen=True):
    """One start of one model. A worker with several models creates one for each load, with `shares_memory`."""

    settings: Settings
    timeline: Timeline = field(default_factory=Timeline)
    gate: ProgressGate = _open_gate
    shares_memory: bool = False

    def phase(self, name: str) -> AbstractContextManager[Phase]:
        """Return a context that times, logs and publishes a phase."""
        return self.timeline.phase(name)

    def gate_of(self, phase: str) -> Callable[[float], bool]:
        """Return the gate for one phase, which is called with the fraction only."""
        return partial(self.gate, phase)
