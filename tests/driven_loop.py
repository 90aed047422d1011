"""A loop of an engine process in a thread, driven through the worker's end of its channel."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, Protocol, TypeVar

from tests.fakes import EOG, FakeRunner
from worker_gguf.engine_process.loop import Loop
from worker_gguf.link.channel import Channel
from worker_gguf.link.images import packed
from worker_gguf.link.messages import Add, Command, Report, Step, Stop


class Runs(Protocol):
    def run(self) -> None: ...


L = TypeVar("L", bound=Runs)


class Driven(Generic[L]):
    """A loop, and the worker's end of its channel."""

    def __init__(self, make: Callable[[Channel[Command]], L]) -> None:
        ours, theirs = socket.socketpair()
        self.worker: Channel[Report] = Channel(ours, Report)
        self.channel: Channel[Command] = Channel(theirs, Command)
        self.loop = make(self.channel)
        self.thread = threading.Thread(target=self.loop.run)

    def send(self, *commands: Command) -> None:
        for command in commands:
            fd = None
            if isinstance(command, Add) and command.request.images:
                command, fd = packed(command)
            self.worker.send(command, fd)
            if fd is not None:
                os.close(fd)

    def step(self) -> Step:
        report = self.worker.receive()
        assert isinstance(report, Step)
        return report


@contextmanager
def running(drive: Driven[L], *commands: Command) -> Iterator[Driven[L]]:
    """Run a loop in its thread, with commands that were sent before it began."""
    drive.send(*commands)
    drive.thread.start()
    try:
        yield drive
    finally:
        drive.send(Stop())
        drive.thread.join(10)
        drive.worker.close()
        drive.channel.close()


def drive_of(runner: FakeRunner, **options: object) -> Driven[Loop]:
    return Driven(lambda channel: Loop(runner, channel, eog=frozenset({EOG}), max_queue=9, **options))  # type: ignore[arg-type]


def driven(runner: FakeRunner, *commands: Command, **options: object) -> AbstractContextManager[Driven[Loop]]:
    return running(drive_of(runner, **options), *commands)
