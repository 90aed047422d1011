"""How long a thread may hold the interpreter while another waits for it, in each phase of the worker's life.

Each function sets the interval for the whole process. Loading a further model while others serve needs no interval of
its own: no module is imported then, and the serving threads mostly wait.
"""

from __future__ import annotations

import sys

__all__ = ["for_requests", "for_the_sdk", "for_the_start"]


def for_the_start() -> None:
    """Set a shorter interval than Python's 5 ms.

    With 5 ms, a thread that reads would wait that long for the importing thread after each call to the kernel, and so
    would llama.cpp's load for each of the hundreds of lines that it logs.
    """
    sys.setswitchinterval(0.0001)


def for_requests() -> None:
    """Set the interval for serving, in which frequent switches cost more than they gain."""
    sys.setswitchinterval(0.005)


def for_the_sdk() -> None:
    """Set the interval for the RunPod SDK, whose loop is pure Python and would delay the engine's next step."""
    sys.setswitchinterval(0.0005)
