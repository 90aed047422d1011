"""An engine process, as the worker process sees it: starts it, talks to it, and learns how it ended."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from worker_gguf.link.channel import Channel, ChannelClosed
from worker_gguf.link.errors import error_of
from worker_gguf.link.messages import Command, Failed, FilesOpened, LastWords, Logged, Progress, Report
from worker_gguf.link.sender import Sender
from worker_gguf.link.spawn import Spawned, spawn

__all__ = ["EngineDied", "EngineProcess"]

ReportT = TypeVar("ReportT", bound=msgspec.Struct)
_ENDING_S = 5.0


class EngineDied(Exception):
    """The engine process has ended or cannot be understood. The message is a sentence."""


class EngineProcess:
    """One engine process. One thread receives. Any thread may send and kill."""

    def __init__(self, spawned: Spawned | None = None) -> None:
        """`spawned` is a process that has been started already. Without it, one is started."""
        self.pid, sock = spawned or spawn()
        self._channel: Channel[Report] = Channel(sock, Report)
        self._sender = Sender(self._channel)
        self._ending = threading.Lock()
        self._status: int | None = None
        self._why: str | None = None

    def send(self, command: Command, fd: int | None = None) -> None:
        """Send a command, with a descriptor that must stay open until the answer. Never waits, and never fails."""
        self._sender.send(command, fd)

    def receive(self) -> Report:
        """Return the next report. Writes the lines of the process to the log. Raises EngineDied."""
        while True:
            try:
                report = self._channel.receive()
            except ChannelClosed as error:
                raise EngineDied(self._sentence(str(error))) from None
            assert report is not None
            if isinstance(report, Logged):
                logging.getLogger(report.logger).log(report.level, "%s", report.event, extra=report.fields)
            elif isinstance(report, LastWords):
                self._why = report.sentence
            else:
                return report

    def ask(
        self,
        command: Command,
        answer: type[ReportT],
        *,
        fd: int | None = None,
        progress: Callable[[float], bool] | None = None,
        opened: Callable[[], None] = lambda: None,
    ) -> ReportT:
        """Send a command and return its answer, before the engine serves.

        `progress` is called with each report of progress. If it returns False, the process is killed. Raises
        EngineDied, or the WorkerError with which the command failed.
        """
        self.send(command, fd)
        while True:
            report = self.receive()
            if isinstance(report, Failed):
                raise error_of(report.error)
            if isinstance(report, answer):
                return report
            if isinstance(report, Progress):
                if progress is not None and not progress(report.fraction):
                    self.kill()
                    raise EngineDied("The load was cancelled, and the engine process was killed.")
            elif isinstance(report, FilesOpened):
                opened()
            else:
                raise EngineDied(f"The engine process sent {type(report).__name__} at the wrong time.")

    def kill(self, why: str | None = None) -> None:
        """Kill the process. `why` is the sentence of EngineDied."""
        with self._ending:
            if self._status is None:
                self._why = self._why or why
                os.kill(self.pid, signal.SIGKILL)

    def end(self, timeout_s: float = _ENDING_S) -> None:
        """Wait until the process has ended, kill it after `timeout_s`, and free what belongs to it."""
        if self._wait(timeout_s) is None:
            self.kill()
            self._wait()
        self._sender.stop()
        self._channel.close()

    @property
    def is_alive(self) -> bool:
        return self._poll() is None

    def _poll(self) -> int | None:
        with self._ending:
            if self._status is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # already reaped, because SIGCHLD is ignored
                    pid, status = self.pid, 0
                if pid:
                    self._status = os.waitstatus_to_exitcode(status)
            return self._status

    def _wait(self, timeout_s: float = math.inf) -> int | None:
        """Return the exit status as soon as the process has ended, or None after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while (status := self._poll()) is None and time.monotonic() < deadline_s:
            time.sleep(0.001)
        return status

    def _sentence(self, closed: str) -> str:
        """Return why the process has ended. It is killed if it only closed its channel."""
        if self._wait(_ENDING_S) is None:
            self.kill(f"The engine process closed its channel ({closed}) and was killed.")
        status = self._wait() or 0
        if self._why is not None:
            return self._why
        if status == -signal.SIGKILL:
            return "The engine process was killed (SIGKILL), most likely because the machine's memory was used up."
        if status < 0:
            return f"The engine process was ended by {signal.Signals(-status).name}."
        return f"The engine process ended with exit code {status}."
