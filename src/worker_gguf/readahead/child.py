"""Runs a function in a child process, which reports its progress until it ends.

While the start imports modules, a thread would wait for the interpreter lock after each system call. Only a process
without other threads may be forked, so a child is possible only at the beginning of a start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

__all__ = ["Child", "Report", "fork"]

_LOOK_S: Final = 0.02
_RECORD: Final = struct.Struct("=qqqqd")


class Report(NamedTuple):
    """The progress of the child. `errno` is 0 if nothing has failed.

    `ended_s` is the time of the end by the machine's monotonic clock, or 0 while the work runs.
    """

    bytes_done: int
    bytes_cached: int
    most_readers: int
    errno: int
    ended_s: float


class Child:
    """A child process, as seen by its parent."""

    def __init__(self, pid: int, reports: int, orders: int) -> None:
        """`reports` is the read end of the child's pipe for reports, `orders` the write end of the pipe to stop it."""
        self._pid, self._reports, self._orders = pid, reports, orders
        self._stopping = threading.Lock()

    def reports(self) -> Iterator[Report]:
        """Yield all reports until the child has ended for any reason. Call it once."""
        while len(record := os.read(self._reports, _RECORD.size)) == _RECORD.size:
            yield Report(*_RECORD.unpack(record))
        os.close(self._reports)
        with contextlib.suppress(ChildProcessError):  # already reaped, because SIGCHLD is ignored
            os.waitpid(self._pid, 0)

    def stop(self) -> None:
        """Tell the child to end. Can be called from any thread, and several times."""
        with self._stopping:
            orders, self._orders = self._orders, -1
        if orders >= 0:
            os.close(orders)


def fork(work: Callable[[], None], wait: Callable[[float], bool], report: Callable[[], Report]) -> Child:
    """Call `work` in a child process, which must start the work in the background.

    The child ends when `wait`, which takes a timeout in seconds, returns True, when it is stopped, or when this process
    ends.
    """
    reports_out, reports_in = os.pipe()
    orders_out, orders_in = os.pipe()
    # A KeyboardInterrupt inside the fork would leave the locks of logging held for ever.
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reports_out)
            os.close(orders_in)
            _run(work, wait, report, reports_in, orders_out)
        finally:
            os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, usual)
    os.close(reports_in)
    os.close(orders_out)
    return Child(pid, reports_out, orders_in)


def _run(
    work: Callable[[], None], wait: Callable[[float], bool], report: Callable[[], Report], reports: int, orders: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops this process
    logging.disable()  # the parent reads the failure and logs it
    work()
    is_done = False
    while not is_done:
        is_done = wait(_LOOK_S)
        if select.select([orders], [], [], 0)[0]:
            return
        os.write(reports, _RECORD.pack(*report()))
