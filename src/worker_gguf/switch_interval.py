"""Sets how long a thread may hold the interpreter lock while another thread waits for it.

Each function sets the interval for the whole process and replaces the previous one. Loading another model while others
serve needs no special interval: little is imported then, and the threads that serve mostly wait.
"""

from __future__ import annotations

import sys

__all__ = ["for_requests", "for_the_sdk", "for_the_start"]


def for_the_start() -> None:
    """Set a shorter interval than Python's default of 5 ms.

    Otherwise a thread that reads ahead could wait that long for the importing thread after each of its system calls,
    and llama.cpp's load for each of the several hundred lines that it logs.
    """
    sys.setswitchinterval(0.0001)


def for_requests() -> None:
    """Set Python's default interval. After the start, frequent switches cost requests more time than they save."""
    sys.setswitchinterval(0.005)


def for_the_sdk() -> None:
    """Set a short interval for the time while the SDK runs.

    The SDK's event loop is pure Python and can hold the lock for the whole interval while the thread that reads the
    engine's reports waits.
    """
    sys.setswitchinterval(0.0005)
