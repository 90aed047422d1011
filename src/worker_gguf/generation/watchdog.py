"""Watches engines and notices a decode that does not return, whatever the cause."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, Self, TypeVar

__all__ = ["Stall", "Watchdog", "Watched"]

_SLOWER = 20
"""A turn may take this many times as long as the slowest turn so far."""
_MOST_INTERVAL_S = 1.0


class Watched(Protocol):
    """The part of an engine that the watchdog reads: the turns of its loop, and the requests that have not ended."""

    @property
    def is_running(self) -> bool: ...

    @property
    def n_turns(self) -> int: ...

    @property
    def n_open(self) -> int: ...


EngineT = TypeVar("EngineT", bound=Watched)


class Stall:
    """Measures how long an engine has had work without finishing a turn of its loop.

    It adds up the time between its own checks, so a container that was frozen for an hour does not count as stalled for
    an hour. A turn may take `floor_s`, or 20 times the slowest turn so far if that is longer: the number of tokens in a
    step is limited, so earlier turns show how long one takes on this machine.
    """

    def __init__(self, floor_s: float) -> None:
        self._floor_s = floor_s
        self._turn = -1
        self.seconds = 0.0
        self.slowest_s = 0.0

    @property
    def allowed_s(self) -> float:
        return max(self._floor_s, _SLOWER * self.slowest_s)

    def look(self, n_turns: int, has_work: bool, passed_s: float) -> bool:
        """Record the engine's current state. Returns whether the engine is wedged."""
        if n_turns != self._turn or not has_work:
            if n_turns != self._turn and has_work:
                self.slowest_s = max(self.slowest_s, self.seconds)
            self._turn, self.seconds = n_turns, 0.0
            return False
        self.seconds += passed_s
        return self.seconds > self.allowed_s


class Watchdog(Generic[EngineT]):
    """Calls `on_wedged`, from its own thread, with each engine that is wedged and the seconds of its stall."""

    def __init__(
        self, engines: Callable[[], Iterable[EngineT]], floor_s: float, on_wedged: Callable[[EngineT, float], None]
    ) -> None:
        """`engines` is called at each check, because engines come and go when the worker has several models."""
        self._engines = engines
        self._floor_s = floor_s
        self._stalls: dict[EngineT, Stall] = {}
        self._on_wedged = on_wedged
        self._interval_s = min(_MOST_INTERVAL_S, floor_s / 10)
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._is_stopped.set()

    def _run(self) -> None:
        last_s = time.monotonic()
        while not self._is_stopped.wait(self._interval_s):
            now_s = time.monotonic()
            passed_s = min(now_s - last_s, 2 * self._interval_s)
            last_s = now_s
            self._look(passed_s)

    def _look(self, passed_s: float) -> None:
        self._stalls = {engine: self._stalls.get(engine) or Stall(self._floor_s) for engine in self._engines()}
        for engine, stall in list(self._stalls.items()):
            if stall.look(engine.n_turns, engine.is_running and engine.n_open > 0, passed_s):
                del self._stalls[engine]  # the next process begins anew
                self._on_wedged(engine, stall.seconds)
