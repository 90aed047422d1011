"""Reads the reports of an engine process: in a thread, or on the event loop that sends the answers.

A step that is read on the event loop wakes one thread and not two, which halves the processor time of the only token in
it. So the thread lends the reading to the event loop that submits requests, and waits. It takes the reading back when
the loop is closed or hangs, or the process has ended: how that happened takes time to find out.
"""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from worker_gguf.link.channel import ChannelClosed
from worker_gguf.link.messages import Report

__all__ = ["Reading", "Source"]

CHECK_S: Final = 0.5
"""The thread looks so often whether the event loop still reads."""


class Source(Protocol):
    """The reports of an engine process."""

    def receive(self) -> Report:
        """Return the next report. Raises EngineDied."""
        ...

    def arrived(self) -> Sequence[Report]:
        """Return the reports that have arrived, without waiting. Raises ChannelClosed; `receive` then says why."""
        ...

    def fileno(self) -> int:
        """Return the descriptor that is readable when a report arrives. It must stay in blocking mode."""
        ...


Take = Callable[[Report, asyncio.AbstractEventLoop | None], None]


class Reading:
    """Reads reports and passes them to `take`, with the event loop that it is called on, None for the thread."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._loan: _Loan | None = None
        self._borrower: asyncio.AbstractEventLoop | None = None

    def offer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read on this running event loop from the next report on, unless another one reads already."""
        loan = self._loan
        if loan is None:
            self._borrower = loop
        elif loan.loop.is_closed():
            self._borrower = loop
            loan.is_over.set()

    def recall(self) -> None:
        """Read in the thread from now on."""
        self._borrower = None
        if (loan := self._loan) is not None:
            loan.is_over.set()

    def run(self, source: Source) -> None:
        """Read until the process ends, in the thread that waits for its end. Raises EngineDied."""
        while True:
            self._take(source.receive(), None)
            loop, self._borrower = self._borrower, None
            if loop is not None:
                self._lend(loop, source)

    def _lend(self, loop: asyncio.AbstractEventLoop, source: Source) -> None:
        """Let an event loop read, and return when it does not read any more."""
        try:
            self._loan = loan = _Loan(loop, source, self._take)
        except (OSError, ValueError):  # the process has been freed
            return
        try:
            loop.call_soon_threadsafe(loan.begin)
            was_behind = False
            while not loan.is_over.wait(CHECK_S):
                is_behind = loan.is_behind()
                if loop.is_closed() or (was_behind and is_behind):
                    break
                was_behind = is_behind
        except RuntimeError:
            if not loop.is_closed():
                raise
        finally:
            loan.recall()
            self._loan = None


class _Loan:
    """The reading by an event loop. It ends itself when the process has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, source: Source, take: Take) -> None:
        self.loop = loop
        self.is_over = threading.Event()
        self._source = source
        self._take = take
        self._reading = threading.Lock()
        self._n_reads = self._n_reads_before = 0
        # The event loop watches this descriptor and not that of the socket: uvloop would make the socket non-blocking,
        # for the threads, too, and it may still watch when the process has been freed.
        self._poll = select.epoll()
        self._poll.register(source.fileno(), select.EPOLLIN)

    def begin(self) -> None:
        if not self.is_over.is_set():
            self.loop.add_reader(self._poll.fileno(), self._read)
            self._read()  # what has arrived already may not make the socket readable again

    def is_behind(self) -> bool:
        """Return whether reports wait and none has been read since the last call."""
        n_before, self._n_reads_before = self._n_reads_before, self._n_reads
        with self._reading:
            return self._n_reads == n_before and not self._poll.closed and bool(self._poll.poll(0))

    def recall(self) -> None:
        """End the reading. Returns after the report that is being taken."""
        self.is_over.set()
        with self._reading:
            pass
        try:
            self.loop.call_soon_threadsafe(self._end)
        except RuntimeError:
            if not self.loop.is_closed():
                raise
            self._close()

    def _read(self) -> None:
        with self._reading:
            if not self.is_over.is_set():
                try:
                    self._n_reads += 1
                    for report in self._source.arrived():
                        self._take(report, self.loop)
                    return
                except ChannelClosed:
                    pass
        self._end()

    def _end(self) -> None:
        self.is_over.set()
        if not self._poll.closed:
            self.loop.remove_reader(self._poll.fileno())
            self._close()

    def _close(self) -> None:
        with self._reading:
            self._poll.close()
