"""Tests of reading llama.cpp's log lines about the layers on GPUs."""

from __future__ import annotations

import re
from pathlib import Path

import llama_cpp
import pytest

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.params import ModelParams
from worker_gguf.llama.model import Model
from worker_gguf.llama.offload import Offload, gpu_backends


def test_its_line_is_read_and_no_other() -> None:
    offload = Offload()
    offload.read("load_tensors: offloading 32 repeating layers to GPU")
    assert offload.layers is None
    offload.read("load_tensors: offloaded 29/33 layers to GPU")
    assert offload.layers == (29, 33)


def test_the_library_still_has_that_line() -> None:
    """If a new version logs another line, only the comparison of memory is left."""
    library = Path(llama_cpp.__file__).parent / "lib" / "libllama.so"
    assert re.search(rb"offloaded %d/%d layers to GPU", library.read_bytes())


def test_without_a_gpu_nothing_is_offloaded() -> None:
    model = Model(MODEL_PATH, ModelParams())
    offloaded = model.offloaded
    model.close()
    assert offloaded is None or offloaded[0] == 0
    assert not any(name.startswith("CPU") for name in gpu_backends())


@pytest.mark.gpu
def test_with_a_gpu_all_layers_are_offloaded() -> None:
    model = Model(MODEL_PATH, ModelParams(n_gpu_layers=-1))
    offloaded = model.offloaded
    model.close()
    assert gpu_backends()
    assert offloaded is not None
    assert offloaded[0] == offloaded[1] > 0
