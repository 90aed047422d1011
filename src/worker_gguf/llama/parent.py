"""Asks the system to continue this process when its parent ends. Knows nothing of llama.cpp, only of C."""

from __future__ import annotations

import ctypes
import signal
from typing import Final

__all__ = ["continue_with_end_of_parent"]

_PR_SET_PDEATHSIG: Final = 1  # sys/prctl.h


def continue_with_end_of_parent() -> None:
    """Let this process run again when its parent ends, even if it was stopped (SIGSTOP), so that it can end itself.

    The signal comes when the thread that started this process ends, which may be long before its process does. So it
    must not be SIGKILL.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
