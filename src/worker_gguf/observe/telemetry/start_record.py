"""The record of a start for the telemetry."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from worker_gguf.observe.timeline import Timeline

__all__ = ["StartRecord"]


class StartRecord(Struct, frozen=True):
    """The result of a start: the phases and seconds of its timeline, and the time of its end."""

    phases: tuple[tuple[str, float, float, int | None], ...]
    """The name, start, seconds and bytes of each phase."""
    seconds: float
    ended_unix_s: float
    code: str | None
    """The code of the error that stopped the start, or None."""

    @classmethod
    def of(cls, timeline: Timeline, code: str | None = None) -> StartRecord:
        now_s = timeline.now_s
        phases = tuple(
            (
                phase.name,
                phase.start_s,
                now_s - phase.start_s if phase.seconds is None else phase.seconds,
                phase.size_bytes,
            )
            for phase in list(timeline.phases)
        )
        return cls(phases, now_s, time.time(), code)
