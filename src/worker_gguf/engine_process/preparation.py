"""Prepares requests that are held to a grammar, while others run: compiling it may take milliseconds."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable

from worker_gguf.engine.request import GenerationRequest
from worker_gguf.errors import EngineFailed, WorkerError
from worker_gguf.link.messages import Add

__all__ = ["Preparation", "run_beside"]

logger = logging.getLogger(__name__)

# Below the threads that compute, which would otherwise share a core with this one.
_NICENESS = 10


def run_beside(work: Callable[[], None], name: str) -> None:
    """Run a function in a thread with less priority than those that compute."""

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        work()

    threading.Thread(target=run, name=name, daemon=True).start()


class Preparation:
    """Prepares one request after the other in a thread, which exists once there was one."""

    def __init__(self, prepare: Callable[[GenerationRequest], None], on_prepared: Callable[[], None]) -> None:
        """`prepare` raises a WorkerError that refuses the request. `on_prepared` is called in the thread."""
        self._prepare = prepare
        self._on_prepared = on_prepared
        self._asked: queue.SimpleQueue[Add] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Add, WorkerError | None]] = queue.SimpleQueue()
        self._open: set[int] = set()
        self._has_thread = False

    def __len__(self) -> int:
        """The number of requests that are not yet prepared, or not yet taken."""
        return len(self._open)

    def begin(self, command: Add) -> None:
        """Begin to prepare the request of a command."""
        self._open.add(command.number)
        self._asked.put(command)
        if not self._has_thread:
            self._has_thread = True
            run_beside(self._run, "preparation")

    def forget(self, number: int) -> bool:
        """Drop a request. Returns False if it is not in preparation."""
        if number not in self._open:
            return False
        self._open.discard(number)
        return True

    def take(self) -> list[tuple[Add, WorkerError | None]]:
        """Return the requests that are prepared since the last call, and the errors of those that are refused."""
        taken: list[tuple[Add, WorkerError | None]] = []
        while not self._done.empty():
            command, error = self._done.get()
            if self.forget(command.number):
                taken.append((command, error))
        return taken

    def _run(self) -> None:
        while True:
            command = self._asked.get()
            error: WorkerError | None = None
            if command.number in self._open:
                try:
                    self._prepare(command.request)
                except WorkerError as refused:
                    error = refused
                except Exception:
                    logger.exception("a request could not be prepared")
                    error = EngineFailed("The engine cannot take this request; see the log.")
            self._done.put((command, error))
            self._on_prepared()
