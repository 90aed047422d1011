"""llama.cpp's process-wide functions: starts its backends and passes its log on to ours."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker_gguf.llama import last_words
from worker_gguf.llama.bindings import libggml, llama_cpp, mtmd

__all__ = ["forget_errors", "give_memory_back", "loading", "recent_errors", "start", "take_log_of_mtmd", "watching"]

logger = logging.getLogger("llama.cpp")
# ggml.h: enum ggml_log_level; CONT continues the previous line.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_CONT = 5
# These functions of llama.cpp report an error if they find no GPU.
_DEVICES = ("ggml_cuda_init", "ggml_vulkan", "ggml_vk")
# The model is loaded without its vocabulary on purpose, and an image that cannot be decoded is the fault of a request.
_EXPECTED = re.compile(
    r"\w+: adding \d+ dummy tokens$|probe: failed to launch ffprobe|mtmd_helper_(video|bitmap)_init_from_buf: "
)
_recent: deque[str] = deque(maxlen=20)
_watchers: list[Callable[[str], None]] = []
_loading: dict[int, str] = {}  # by thread, because another thread may generate at the same time
_kept_alive: list[object] = []
_started = threading.Lock()
_state = {"started": False, "uses_gpus": True, "level": logging.DEBUG}


@llama_cpp.llama_log_callback
def _on_log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").rstrip()
    if level == _CONT:
        level_now = _state["level"]
    else:
        level_now = _state["level"] = _LEVELS.get(level, logging.DEBUG)
    if not line.strip("."):
        return
    if _EXPECTED.match(line) or (not _state["uses_gpus"] and line.startswith(_DEVICES)):
        level_now = logging.DEBUG
    if level_now >= logging.WARNING:
        _recent.append(line)
    logger.log(level_now, line)
    for watcher in _watchers:
        watcher(line)


def start(say_last: Callable[[str], None] = logger.error, *, uses_gpus: bool = True) -> None:
    """Load the backends, once per process. Thread-safe.

    `say_last` is called with a sentence before llama.cpp ends the process. Without `uses_gpus`, it is no error that no
    GPU is found.
    """
    with _started:
        if not _state["started"]:
            _state["uses_gpus"] = uses_gpus
            llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))
            _kept_alive.append(last_words.listen(libggml, say_last, _loaded_here))
            llama_cpp.llama_backend_init()
            _state["started"] = True


def take_log_of_mtmd() -> None:
    """Pass the log of the library that encodes images on to ours, too. Call it before the library is used."""
    mtmd().mtmd_helper_log_set(_on_log, ctypes.c_void_p(0))


def _loaded_here() -> str | None:
    """Return the model that this thread is loading, for the message if llama.cpp ends the process."""
    return _loading.get(threading.get_ident())


def give_memory_back() -> None:
    """Return freed memory to the system.

    Each closed model leaves some 10 MB in small pieces in the C library's heap.
    """
    with contextlib.suppress(AttributeError):  # C libraries without malloc_trim return memory on their own
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def watching(watcher: Callable[[str], None]) -> Iterator[None]:
    """Call `watcher` with every line that llama.cpp logs inside this context, on the thread that logs it."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Name the file that this thread loads inside this context, for the message if llama.cpp ends the process."""
    thread = threading.get_ident()
    _loading[thread] = name
    try:
        yield
    finally:
        del _loading[thread]


def recent_errors() -> list[str]:
    """Return the last warnings and errors that llama.cpp logged. They give the reason that its return codes do not."""
    return list(_recent)


def forget_errors() -> None:
    """Forget earlier errors, so that they are not reported as the reason of a later failure."""
    _recent.clear()
