"""Ends an engine process with its worker process, whatever the engine computes, and even if it has been stopped."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
from typing import Final

__all__ = ["begin"]

_PR_SET_PDEATHSIG: Final = 1  # sys/prctl.h


def begin(fd: int) -> None:
    """End this process when the other end of the socket `fd` is closed."""
    threading.Thread(target=_end_with_worker, args=(fd,), name="lifeline", daemon=True).start()
    # The thread of a stopped process (SIGSTOP) sees nothing, so the system wakes it. The signal comes whenever the
    # thread that started this process ends, which may be long before its process does. So it must not be SIGKILL.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def _end_with_worker(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    poll.poll()
    os._exit(0)
