"""A watchdog over the threads of engines: a decode that does not return is noticed, whatever it waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol, Self

__all__ = ["Stall", "Watchdog", "Watched"]

_SLOWER = 20
"""How many times the slowest turn so far a turn may take."""
_MOST_INTERVAL_S = 1.0


class Watched(Protocol):
    """The part of an engine that the watchdog reads: turns of its loop, and requests that have not ended."""

    @property
    def n_turns(self) -> int: ...

    @property
    def n_open(self) -> int: ...


class Stall:
    """Measures for how long work has waited without a turn. It counts only the time between its own looks: a container
    that was frozen for an hour was not stalled for an hour.

    The tokens of a batch bound a step, so earlier steps tell how long one may take on this machine: `floor_s`, or
    twenty times the slowest one so far if that is more.
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
        """Take note of the engine now and say whether it is wedged."""
        if n_turns != self._turn or not has_work:
            if n_turns != self._turn and has_work:
                self.slowest_s = max(self.slowest_s, self.seconds)
            self._turn, self.seconds = n_turns, 0.0
            return False
        self.seconds += passed_s
        return self.seconds > self.allowed_s


class Watchdog:
    """Calls `on_wedged` once, from its own thread, with the seconds of the stall. Then it looks no more."""

    def __init__(
        self, engines: Callable[[], Iterable[Watched]], floor_s: float, on_wedged: Callable[[float], None]
    ) -> None:
        """`engines` returns the engines that exist at each look; with several models they come and go."""
        self._engines = engines
        self._floor_s = floor_s
        self._stalls: dict[Watched, Stall] = {}
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
            if (stall := self._look(passed_s)) is not None:
                self._on_wedged(stall.seconds)
                return

    def _look(self, passed_s: float) -> Stall | None:
        """The stall of an engine that is wedged, if one is."""
        self._stalls = {engine: self._stalls.get(engine) or Stall(self._floor_s) for engine in self._engines()}
        for engine, stall in self._stalls.items():
            if stall.look(engine.n_turns, engine.n_open > 0, passed_s):
                return stall
        return None
