"""Tunes the Python interpreter for what its process does now: when threads take turns, when garbage is collected.

Each function replaces the previous one. Loading another model while others serve needs neither: little is imported
then, and the threads that serve mostly wait.
"""

from __future__ import annotations

import gc
import sys

__all__ = ["for_requests", "for_the_sdk", "for_the_start"]

_USUAL_THRESHOLDS = gc.get_threshold()


def for_the_start() -> None:
    """Let threads take turns more often than every 5 ms, which is Python's default, and collect garbage rarely.

    Otherwise a thread that reads ahead could wait that long for the importing thread after each of its system calls,
    and llama.cpp's load for each of the several hundred lines that it logs. Imports make many objects and little
    garbage: collecting it as often as usual takes an eighth of their time and frees half a megabyte.
    """
    sys.setswitchinterval(0.0001)
    gc.set_threshold(100_000)


def for_requests() -> None:
    """Set Python's defaults. After the start, frequent switches cost requests more time than they save.

    No collection looks at the objects of the start again, because nearly all of them stay until the process ends.
    """
    sys.setswitchinterval(0.005)
    gc.freeze()
    gc.set_threshold(*_USUAL_THRESHOLDS)


def for_the_sdk() -> None:
    """Set a short interval for the time while the SDK runs.

    The SDK's event loop is pure Python and can hold the lock for the whole interval while the thread that reads the
    engine's reports waits.
    """
    sys.setswitchinterval(0.0005)
