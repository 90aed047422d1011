"""llama.cpp's process-wide side: start, log lines into ours, what devices there are."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker_gguf.llama import last_words
from worker_gguf.llama.bindings import libggml, llama_cpp

__all__ = ["forget_errors", "give_memory_back", "loading", "recent_errors", "start", "watching"]

logger = logging.getLogger("llama.cpp")
# ggml.h: enum ggml_log_level; CONT continues the line before.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_CONT = 5
_recent: deque[str] = deque(maxlen=20)
_watchers: list[Callable[[str], None]] = []
_loading: dict[int, str] = {}  # by thread: another one may generate meanwhile
_kept_alive: list[object] = []
_started = threading.Lock()
_state = {"started": False, "level": logging.DEBUG}


@llama_cpp.llama_log_callback
def _on_log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").rstrip()
    if level == _CONT:
        level_now = _state["level"]
    else:
        level_now = _state["level"] = _LEVELS.get(level, logging.DEBUG)
    if not line.strip("."):
        return
    if level_now >= logging.WARNING:
        _recent.append(line)
    logger.log(level_now, line)
    for watcher in _watchers:
        watcher(line)


def start() -> None:
    """Load the backends, once for the process. Thread-safe."""
    with _started:
        if not _state["started"]:
            llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))
            _kept_alive.append(last_words.listen(libggml, logger.error, _loaded_here))
            llama_cpp.llama_backend_init()
            _state["started"] = True


def _loaded_here() -> str | None:
    """The model that this thread loads, for the message if llama.cpp ends the process."""
    return _loading.get(threading.get_ident())


def give_memory_back() -> None:
    """Hand what freed models leave in the C library's heap to the system: some 10 MB each, in many small pieces."""
    with contextlib.suppress(AttributeError):  # a C library without malloc_trim gives memory back without being asked
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def watching(watcher: Callable[[str], None]) -> Iterator[None]:
    """Show `watcher` every line that llama.cpp logs meanwhile, on the thread that logs it."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Name the file that is to blame if llama.cpp ends the process meanwhile, on this thread."""
    thread = threading.get_ident()
    _loading[thread] = name
    try:
        yield
    finally:
        del _loading[thread]


def recent_errors() -> list[str]:
    """The last warnings and errors llama.cpp logged: its return codes say little, these lines say why."""
    return list(_recent)


def forget_errors() -> None:
    """Forget earlier errors: the reason of one failed load says nothing about the next."""
    _recent.clear()
