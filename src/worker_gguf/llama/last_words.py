"""Reports the reason when llama.cpp ends the process.

When a ggml assertion fails, ggml calls abort(). After an uncaught exception, C++ calls terminate(). No Python code runs
after either call, and the process would dump core without a reason in the log. Both calls can be intercepted. This
module logs a sentence and ends the process with exit code 1, as after a failed start, so that the platform starts
another worker.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

__all__ = ["listen", "sentence"]

_EXIT_CODE: Final = 1
_ON_ABORT: Final = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_ON_TERMINATE: Final = ctypes.CFUNCTYPE(None)
_ASSERTION: Final = re.compile(r"(?P<file>[\w.-]+:\d+): (?P<what>.*)", re.DOTALL)


def listen(ggml: ctypes.CDLL, log: Callable[[str], None], at_work_on: Callable[[], str | None]) -> object:
    """Make llama.cpp log `sentence` and write it to standard error before it ends the process.

    The caller must keep the returned object alive.
    """

    def end(message: str) -> None:
        report = sentence(message, at_work_on())
        with suppress(Exception):
            log(report)
        with suppress(Exception):
            sys.stderr.write(f"worker-gguf: {report}\n")
            sys.stderr.flush()
        os._exit(_EXIT_CODE)

    @_ON_ABORT
    def on_abort(message: bytes | None) -> None:
        end((message or b"").decode("utf-8", "replace"))

    @_ON_TERMINATE
    def on_terminate() -> None:
        end("an uncaught exception")

    ggml.ggml_set_abort_callback.argtypes = [_ON_ABORT]
    ggml.ggml_set_abort_callback.restype = ctypes.c_void_p
    ggml.ggml_set_abort_callback(on_abort)
    # Without GNU's C++ library, an uncaught exception still aborts without a sentence.
    with suppress(OSError, AttributeError):
        set_terminate = ctypes.CDLL("libstdc++.so.6")["_ZSt13set_terminatePFvvE"]  # std::set_terminate(void (*)())
        set_terminate.argtypes, set_terminate.restype = [_ON_TERMINATE], ctypes.c_void_p
        set_terminate(on_terminate)
    return on_abort, on_terminate


def sentence(message: str, loading: str | None) -> str:
    """Return a sentence about the end of the process.

    It omits the path of the source file, which is a path on the machine that compiled llama.cpp.
    """
    found = _ASSERTION.search(message.strip())
    what = f"{found['what'].strip()} ({found['file']})" if found else message.strip() or "no reason was given"
    if loading:
        return (
            f"{loading} could not be loaded: llama.cpp stopped at {what}. The file is damaged, or converted in a way "
            "that this llama.cpp does not know: download it again, or take another one."
        )
    return f"llama.cpp stopped at {what}. If this happens again, report it with the name of the model."
