"""How long a thread may hold the interpreter while another waits for it, in each part of the worker's life.

Each function sets the interval for the whole process and replaces the one before. Loading a further model while others
serve needs no interval of its own: nothing is imported then, and the threads that serve mostly wait.
"""

from __future__ import annotations

import sys

__all__ = ["for_requests", "for_the_sdk", "for_the_start"]


def for_the_start() -> None:
    """Faster than Python's own 5 ms: that long a reader would wait for the thread that imports, after each of its calls
    to the kernel, and llama.cpp's load for each of the some hundred lines that it logs."""
    sys.setswitchinterval(0.0001)


def for_requests() -> None:
    """The start is over: fast turns would cost the requests more than they bring."""
    sys.setswitchinterval(0.005)


def for_the_sdk() -> None:
    """The SDK's loop is all Python and holds the interpreter for as long while the engine's thread wants its next
    step."""
    sys.setswitchinterval(0.0005)
