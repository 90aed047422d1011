"""Measures the phases of the start. The threads of the start write it, and any thread can read it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from msgspec import Struct

__all__ = ["Phase", "Timeline", "draw", "read_phases"]

logger = logging.getLogger(__name__)

_SHORTEST_BAR = 10


class Phase(Struct):
    """One phase of the start.

    `start_s` is the time since the start of the timeline. `seconds` is None while the phase runs. `has_failed` is True
    if it ended with an error.
    """

    name: str
    start_s: float
    seconds: float | None = None
    size_bytes: int | None = None
    note: str | None = None
    has_failed: bool = False

    def as_dict(self) -> dict[str, object]:
        value: dict[str, object] = {"phase": self.name, "start_s": round(self.start_s, 4)}
        if self.seconds is not None:
            value["seconds"] = round(self.seconds, 4)
        if self.size_bytes is not None:
            value["bytes"] = self.size_bytes
            if self.seconds:
                value["bytes_per_s"] = round(self.size_bytes / self.seconds)
        if self.note is not None:
            value["note"] = self.note
        if self.has_failed:
            value["failed"] = True
        return value


class Timeline:
    """The phases of one start, which may overlap.

    `before_s` is the time between the start of the process and the first line of this package, or 0 if unknown.
    """

    def __init__(self, *, before_s: float = 0.0, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._zero = clock() - before_s
        self.phases: list[Phase] = []
        if before_s:
            self.phases.append(Phase("interpreter", 0.0, before_s))

    @classmethod
    def of_process(cls) -> Self:
        """Return a timeline that starts with this process, so that it includes the start of the interpreter."""
        try:
            fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
            ticks_per_s = os.sysconf("SC_CLK_TCK")
            age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / ticks_per_s
        except (OSError, ValueError, IndexError):
            age_s = 0.0
        return cls(before_s=max(0.0, age_s))

    @property
    def now_s(self) -> float:
        """The seconds since the start of the timeline."""
        return self._clock() - self._zero

    @property
    def current(self) -> str | None:
        """The name of the running phase that started last, or None."""
        return next((phase.name for phase in reversed(self.phases) if phase.seconds is None), None)

    def begin(self, name: str, at_s: float | None = None) -> Phase:
        """Start a phase now, or at a time of the timeline's clock. Call `end` to end it."""
        phase = Phase(name, self.now_s if at_s is None else at_s - self._zero)
        self.phases.append(phase)
        return phase

    def end(self, phase: Phase, at_s: float | None = None) -> None:
        """End a phase now, or at a time of the timeline's clock, and log it."""
        phase.seconds = (self.now_s if at_s is None else at_s - self._zero) - phase.start_s
        if phase.has_failed:
            logger.warning("phase failed", extra=phase.as_dict())
        else:
            logger.info("phase", extra=phase.as_dict())

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Start a phase and end it with the context."""
        phase = self.begin(name)
        try:
            yield phase
        except BaseException:
            phase.has_failed = True
            raise
        finally:
            self.end(phase)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase that has ended, by its name."""
        return {phase.name: phase.seconds for phase in self.phases if phase.seconds is not None}

    def as_list(self) -> list[dict[str, object]]:
        return [phase.as_dict() for phase in self.phases]

    def draw(self, width: int = 100) -> str:
        """Draw all phases until now, at most `width` characters wide. See `draw`."""
        return draw(self.phases, self.now_s, width)


def draw(phases: list[Phase], now_s: float, width: int = 100) -> str:
    """Draw phases as text, at most `width` characters wide, with a line for each phase in the order of their starts.

    A line has the name of the phase, a bar for its time, its seconds and its bytes. A running phase ends at `now_s`.
    """
    phases = sorted(phases, key=lambda phase: phase.start_s)
    ends = [now_s if phase.seconds is None else phase.start_s + phase.seconds for phase in phases]
    texts = [_text(phase, end) for phase, end in zip(phases, ends, strict=True)]
    name_width = max((len(phase.name) for phase in phases), default=0)
    bar_width = max(_SHORTEST_BAR, width - name_width - max(map(len, texts), default=0) - 4)
    scale = bar_width / max([*ends, 1e-9])
    lines = []
    for phase, end, text in zip(phases, ends, texts, strict=True):
        first = min(bar_width - 1, int(phase.start_s * scale))
        length = max(1, round(end * scale) - first)
        bar = (" " * first + "█" * length).ljust(bar_width)
        lines.append(f"{phase.name:<{name_width}} │{bar}│ {text}".rstrip())
    return "\n".join(lines)


def read_phases(dicts: Iterable[Mapping[str, Any]]) -> list[Phase]:
    """Read phases from the dicts of `as_list`, which are also in /health."""
    return [
        Phase(p["phase"], p["start_s"], p.get("seconds"), p.get("bytes"), p.get("note"), p.get("failed", False))
        for p in dicts
    ]


def _text(phase: Phase, end_s: float) -> str:
    seconds = end_s - phase.start_s
    text = f"{seconds:7.3f} s" + (" so far" if phase.seconds is None else "")
    if phase.has_failed:
        text += "  failed"
    if phase.size_bytes is not None:
        text += f"  {phase.size_bytes / 1e6:,.0f} MB"
        if seconds > 0 and phase.seconds is not None:
            text += f", {phase.size_bytes / seconds / 1e6:,.0f} MB/s"
    return text + (f" ({phase.note})" if phase.note else "")
