"""An engine process that hangs, as llama.cpp does on a broken GPU: it is stopped, so that it computes nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.waiting import wait_until
from worker_gguf.generation.engine import Engine
from worker_gguf.link.process import EngineProcess

__all__ = ["hanging", "process_of"]


def process_of(engine: Engine) -> EngineProcess:
    link = engine._link
    assert isinstance(link, EngineProcess)
    return link


@contextmanager
def hanging(engine: Engine) -> Iterator[None]:
    """Stop the engine's process inside this context."""
    process = process_of(engine)
    # The process is continued when the thread that started it ends (llama/parent.py).
    wait_until(lambda: not any(thread.name == "boot" for thread in threading.enumerate()))
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if process.is_alive:
            os.kill(process.pid, signal.SIGCONT)
