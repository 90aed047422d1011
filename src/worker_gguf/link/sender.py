"""Sends commands in a thread of its own: a send waits while the engine process computes and its socket is full."""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from typing import Any

from worker_gguf.link.channel import Channel, ChannelClosed
from worker_gguf.link.images import packed
from worker_gguf.link.messages import Add, Command

__all__ = ["Sender"]


class Sender:
    """Any thread may send. The thread starts with the first command and ends with `stop` or with the channel."""

    def __init__(self, channel: Channel[Any]) -> None:
        self._channel = channel
        self._commands: SimpleQueue[tuple[Command, int | None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine-commands", daemon=True)
        self._starting = threading.Lock()

    def send(self, command: Command, fd: int | None = None) -> None:
        """Send a command, with a descriptor that must stay open until the answer. Never waits, and never fails."""
        self._commands.put((command, fd))
        with self._starting:
            # Not earlier: the first engine process is started before the only fork of this one, which must have no
            # other thread.
            if self._thread.ident is None:
                self._thread.start()

    def stop(self) -> None:
        self._commands.put(None)

    def _run(self) -> None:
        while (item := self._commands.get()) is not None:
            command, fd = item
            images = None
            if isinstance(command, Add) and command.request.images:
                command, images = packed(command)
                fd = images
            try:
                self._channel.send(command, fd)
            except ChannelClosed:
                return  # the receiving thread notices the end, too
            finally:
                if images is not None:
                    os.close(images)
