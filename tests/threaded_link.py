"""An engine whose loop runs in a thread of the test, over a real channel, instead of in a process of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from tests.fake_pooler import FakePooler
from tests.fakes import EOG
from tests.waiting import MOST_S
from worker_gguf.engine.runner import Runner
from worker_gguf.engine_process.loop import Loop
from worker_gguf.engine_process.pooling_loop import PoolingLoop
from worker_gguf.generation.engine import Engine
from worker_gguf.generation.events import Event
from worker_gguf.generation.stream import EventStream
from worker_gguf.link.channel import Channel, ChannelClosed
from worker_gguf.link.messages import Command, Report
from worker_gguf.link.process import EngineDied
from worker_gguf.link.sender import Sender

__all__ = ["Numerals", "ThreadedLink", "engine_of"]


class Numerals:
    """A vocabulary whose tokens are their numbers, each followed by a space."""

    def __init__(self, piece: Callable[[int], bytes] = lambda token: b"%d " % token) -> None:
        self.piece = self.control_piece = piece

    def close(self) -> None: ...


class ThreadedLink:
    """Keeps the contract of EngineProcess. A kill closes the channel, as the end of a process does."""

    def __init__(self, runner: Runner | FakePooler, *, max_queue: int, **options: Any) -> None:
        """`options` are those of the loop. Without `eog`, the end-of-generation token is that of FakeRunner."""
        ours, theirs = socket.socketpair()
        self._channel: Channel[Report] = Channel(ours, Report)
        self._served: Channel[Command] = Channel(theirs, Command)
        self.loop: Loop | PoolingLoop
        if isinstance(runner, FakePooler):
            self.loop = PoolingLoop(runner, self._served, **options)
        else:
            self.loop = Loop(runner, self._served, max_queue=max_queue, **{"eog": frozenset({EOG}), **options})
        self._runner = runner
        self._sender = Sender(self._channel)
        self._why = "The engine process ended."
        self._thread = threading.Thread(target=self._run, name="engine-loop", daemon=True)
        self._thread.start()

    def send(self, command: Command) -> None:
        self._sender.send(command)

    def receive(self) -> Report:
        try:
            report = self._channel.receive()
        except ChannelClosed:
            raise EngineDied(self._why) from None
        assert report is not None
        return report

    def kill(self, why: str | None = None) -> None:
        self._why = why or self._why
        self._served.close()

    def end(self) -> None:
        self._thread.join(MOST_S)
        self._sender.stop()
        self._channel.close()

    def _run(self) -> None:
        with contextlib.suppress(ChannelClosed):
            self.loop.run()
        self._served.close()
        self._runner.close()


def engine_of(runner: Runner | FakePooler, pieces: Any = None, *, max_queue: int = 100, **options: Any) -> Engine:
    """Return an engine with this runner that is not started yet."""
    of_loop: dict[str, Any] = {name: options.pop(name) for name in ("prefill_chunk", "eog") if name in options}
    of_loop |= {"clock": options["clock"]} if "clock" in options else {}
    link = ThreadedLink(runner, max_queue=max_queue, **of_loop)
    return Engine(link, runner.limits, pieces or Numerals(), max_queue=max_queue, **options)


async def read(stream: EventStream) -> dict[int, list[Event]]:
    got: dict[int, list[Event]] = {}
    async for items in stream:
        for index, events in items.items():
            got.setdefault(index, []).extend(events)
    return got
