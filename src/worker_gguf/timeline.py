"""The start's phases with their seconds. Written by the thread that boots, read by anyone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from worker_gguf.log import get_logger

__all__ = ["Phase", "Timeline"]

logger = get_logger(__name__)


@dataclass(slots=True)
class Phase:
    """`start_s` counts from the start of the process's timeline; `seconds` is None while it runs."""

    name: str
    start_s: float
    seconds: float | None = None
    size_bytes: int | None = None

    def as_dict(self) -> dict[str, object]:
        value: dict[str, object] = {"phase": self.name, "start_s": round(self.start_s, 4)}
        if self.seconds is not None:
            value["seconds"] = round(self.seconds, 4)
        if self.size_bytes is not None:
            value["bytes"] = self.size_bytes
            if self.seconds:
                value["bytes_per_s"] = round(self.size_bytes / self.seconds)
        return value


class Timeline:
    """Phases may overlap. `before_s` is what passed before the first line of ours ran, if known."""

    def __init__(self, *, before_s: float = 0.0, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._zero = clock() - before_s
        self.phases: list[Phase] = []
        if before_s:
            self.phases.append(Phase("interpreter", 0.0, before_s))

    @property
    def now_s(self) -> float:
        return self._clock() - self._zero

    @property
    def current(self) -> str | None:
        """The phase that began last and still runs."""
        return next((phase.name for phase in reversed(self.phases) if phase.seconds is None), None)

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        phase = Phase(name, self.now_s)
        self.phases.append(phase)
        try:
            yield phase
        finally:
            phase.seconds = self.now_s - phase.start_s
            logger.info("phase", **phase.as_dict())

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, of those that have ended."""
        return {phase.name: phase.seconds for phase in self.phases if phase.seconds is not None}

    def as_list(self) -> list[dict[str, object]]:
        return [phase.as_dict() for phase in self.phases]
