"""Prepares requests while others run: compiling a grammar may take milliseconds, and encoding an image seconds."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.updates import timed_out
from worker_gguf.errors import EngineFailed, QueueFull, WorkerError
from worker_gguf.link.images import unpacked
from worker_gguf.link.messages import Add

__all__ = ["Preparation", "run_beside"]

logger = logging.getLogger(__name__)

# Below the threads that compute a step: they wait for each other, so all of them lose what one loses to this thread.
_NICENESS = 10


def run_beside(work: Callable[[], None], name: str) -> None:
    """Run a function in a thread with less priority than those that compute, which its own threads inherit."""

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        work()

    threading.Thread(target=run, name=name, daemon=True).start()


class Preparation:
    """Prepares one request after the other in a thread, which exists once there was one."""

    def __init__(
        self,
        prepare: Callable[[GenerationRequest, Callable[[], bool]], GenerationRequest],
        forget: Callable[[str], None],
        on_prepared: Callable[[], None],
        what: str = "its grammar was compiled",
    ) -> None:
        """`prepare` returns the request to run, or raises a WorkerError that refuses it. It may end early when the
        function that it is given returns False: the request was dropped. `on_prepared` is called in the thread.

        `forget` drops what was prepared for the id of a request that was dropped meanwhile. `what` says in errors what
        has not happened yet.
        """
        self._prepare = prepare
        self._forget_made = forget
        self._on_prepared = on_prepared
        self._what = what
        self._asked: queue.SimpleQueue[tuple[Add, int | None]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Add, WorkerError | None]] = queue.SimpleQueue()
        self._open: dict[int, Add] = {}
        self._has_thread = False

    def __len__(self) -> int:
        """The number of requests that are not yet prepared, or not yet taken."""
        return len(self._open)

    def begin(self, command: Add, images: int | None = None) -> None:
        """Begin to prepare the request of a command. `images` is the descriptor that came with it."""
        self._open[command.number] = command
        self._asked.put((command, images))
        if not self._has_thread:
            self._has_thread = True
            run_beside(self._run, "preparation")

    def forget(self, number: int) -> bool:
        """Drop a request. Returns False if it is not in preparation."""
        return self._open.pop(number, None) is not None

    def late(self, now_s: float) -> list[tuple[Add, WorkerError]]:
        """Drop and return the requests whose time is over, with their errors."""
        late: list[tuple[Add, WorkerError]] = []
        for command in self._open.values():
            deadline_s, start_by_s = command.request.deadline_s, command.start_by_s
            if deadline_s is not None and deadline_s <= now_s:
                late.append((command, timed_out(f"before {self._what}")))
            elif start_by_s is not None and start_by_s <= now_s:
                late.append((command, QueueFull.waited(1)))
        for command, _ in late:
            self.forget(command.number)
        return late

    def take(self) -> list[tuple[Add, WorkerError | None]]:
        """Return the requests that are prepared since the last call, and the errors of those that are refused."""
        taken: list[tuple[Add, WorkerError | None]] = []
        while not self._done.empty():
            command, error = self._done.get()
            if self.forget(command.number):
                taken.append((command, error))
            else:
                self._forget_made(command.request.id)
        return taken

    def _run(self) -> None:
        while True:
            command, images = self._asked.get()
            error: WorkerError | None = None
            if images is not None:
                command = unpacked(command, images)
            is_wanted = partial(self._open.__contains__, command.number)
            if is_wanted():
                try:
                    made = self._prepare(command.request, is_wanted)
                    command = replace(command, request=made)
                except WorkerError as refused:
                    error = refused
                except BaseException:  # also a panic in llguidance: the thread must go on
                    logger.exception("a request could not be prepared")
                    error = EngineFailed("The engine cannot take this request; see the log.")
            self._done.put((command, error))
            self._on_prepared()
