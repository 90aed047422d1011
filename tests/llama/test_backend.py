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


NO_GPU = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
from worker_gguf.llama import backend

backend.start(uses_gpus=sys.argv[1] == "gpus")
backend._on_log(4, b"ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected", None)
backend._on_log(4, b"llama_model_load: the file is damaged", None)
"""


@pytest.mark.parametrize(("device", "errors"), [("gpus", 2), ("none", 1)])
def test_a_process_that_uses_no_gpu_does_not_report_that_it_finds_none(device: str, errors: int) -> None:
    run = subprocess.run([sys.executable, "-c", NO_GPU, device], capture_output=True, check=True, text=True, timeout=60)
    assert run.stderr.count("ERROR") == errors
    assert "the file is damaged" in run.stderr
