"""Runs work in a child process, which reports its progress until it ends.

A thread would wait for the interpreter lock after each call to the kernel, while the start imports modules. Only a
process without other threads may be forked, so a child is possible only at the very beginning of a start.
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
    """`errno` is 0 as long as nothing has failed. `ended_s`, by the machine's monotonic clock, is 0 while the work
    runs.
    """

    bytes_done: int
    bytes_cached: int
    most_readers: int
    errno: int
    ended_s: float


class Child:
    """The child process, as its parent uses it."""

    def __init__(self, pid: int, said: int, orders: int) -> None:
        self._pid, self._said, self._orders = pid, said, orders
        self._stopping = threading.Lock()

    def reports(self) -> Iterator[Report]:
        """Yield reports until the child has ended for any reason. For one thread, once."""
        while len(record := os.read(self._said, _RECORD.size)) == _RECORD.size:
            yield Report(*_RECORD.unpack(record))
        os.close(self._said)
        with contextlib.suppress(ChildProcessError):  # already reaped, because SIGCHLD is ignored
            os.waitpid(self._pid, 0)

    def stop(self) -> None:
        """Ask the child to end. Can be called from any thread, and again."""
        with self._stopping:
            orders, self._orders = self._orders, -1
        if orders >= 0:
            os.close(orders)


def fork(work: Callable[[], None], wait: Callable[[float], bool], report: Callable[[], Report]) -> Child:
    """Start `work` in a child process.

    The child ends when `wait` (which takes a timeout in seconds) returns true, when it is stopped, and when this
    process has ended.
    """
    said, saying = os.pipe()
    orders, ordering = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(said)
            os.close(ordering)
            _run(work, wait, report, saying, orders)
        finally:
            os._exit(0)
    os.close(saying)
    os.close(orders)
    return Child(pid, said, ordering)


def _run(
    work: Callable[[], None], wait: Callable[[float], bool], report: Callable[[], Report], saying: int, orders: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and then stops this process
    logging.disable()  # the parent reads the failure and logs it
    work()
    is_done = False
    while not is_done:
        is_done = wait(_LOOK_S)
        if select.select([orders], [], [], 0)[0]:
            return
        os.write(saying, _RECORD.pack(*report()))
