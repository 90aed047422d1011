"""Lets the encoding of images and the steps of the engine compute in turn, where both would use all processors.

The threads of a computation wait for each other after each operation. If those of two computations share the
processors, each waits for threads that the other has displaced, and both lose more than the time that the other uses.

Knows nothing of llama.cpp: it only says whose turn it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition

__all__ = ["Alternation"]

# The length of an encoding's turn, as a share of the step before it, and at most in seconds: a step may compute a long
# prompt, and during a turn no request is added or cancelled.
_SHARE = 0.6
_MOST_S = 0.2
# How long a step waits beyond the end of a turn for the operation that is computed. That of a large image takes longer.
_PATIENCE_S = 0.02


class Alternation:
    """The turns of two threads: the loop's calls `step`, and that which encodes images calls `encoding` and `pause`.

    Where no step is computed, an encoding never waits. Both compute at once while an operation of the encoding takes
    longer than a step waits for it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, patience_s: float = _PATIENCE_S) -> None:
        self._clock = clock
        self._patience_s = patience_s
        self._changed = Condition()
        self._is_stepping = False
        self._step_waits = False
        self._is_encoding = False
        self._encoding_waits = False
        self._turn_ends_s = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Compute a step after the turn of an encoding."""
        with self._changed:
            self._step_waits = True
            self._changed.notify_all()
            left_s = max(0.0, self._turn_ends_s - self._clock())
            self._changed.wait_for(lambda: not self._is_encoding, left_s + self._patience_s)
            self._step_waits, self._is_stepping = False, True
        began_s = self._clock()
        try:
            yield
        finally:
            with self._changed:
                now_s = self._clock()
                self._turn_ends_s = now_s + min(_MOST_S, _SHARE * (now_s - began_s))
                self._is_stepping = False
                if self._encoding_waits:
                    # Its turn begins now. Its thread may wake only after the next step would have begun.
                    self._encoding_waits, self._is_encoding = False, True
                self._changed.notify_all()

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Encode an image. Call `pause` between its operations."""
        self.pause()
        try:
            yield
        finally:
            with self._changed:
                self._is_encoding = False
                self._changed.notify_all()

    def pause(self) -> None:
        """Wait for the next turn if this one is over."""
        with self._changed:
            is_over = self._step_waits and self._clock() >= self._turn_ends_s
            self._is_encoding = not self._is_stepping and not is_over
            if not self._is_encoding:
                self._encoding_waits = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_encoding)
