"""Tests of llama.cpp's process-wide functions, each in a process of its own that llama.cpp ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

ABORT = """
import sys, threading
from worker_gguf.llama import backend
from worker_gguf.llama.bindings import libggml

def abort():
    libggml.ggml_abort(b"x.cpp", 12, b"it broke")

backend.start()
with backend.loading("b.gguf"):
    if sys.argv[1] == "here":
        abort()
    thread = threading.Thread(target=abort)
    thread.start()
    thread.join()
"""


@pytest.mark.parametrize(("thread", "is_blamed"), [("here", True), ("elsewhere", False)])
def test_a_model_that_loads_is_blamed_for_its_own_thread_alone(thread: str, is_blamed: bool) -> None:
    run = subprocess.run([sys.executable, "-c", ABORT, thread], capture_output=True, check=False, text=True, timeout=60)
    assert run.returncode == 1
    assert "it broke" in run.stderr
    assert ("b.gguf could not be loaded" in run.stderr) == is_blamed
