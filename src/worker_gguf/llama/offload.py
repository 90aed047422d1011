"""The layers that llama.cpp put on GPUs, read from its log, and the backends that it has."""

from __future__ import annotations

import ctypes
import re

from worker_gguf.llama import backend
from worker_gguf.llama.bindings import libggml

__all__ = ["Offload", "gpu_backends"]

# llama-model.cpp: load_tensors
_SAID = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
# ggml-backend.h has no kind of a backend without a device; these compute on the processor or elsewhere in the network.
_NOT_GPUS = ("CPU", "BLAS", "RPC", "ZenDNN")


class Offload:
    """Reads llama.cpp's log lines. `layers` is (on GPUs, all), or None until llama.cpp has logged it."""

    def __init__(self) -> None:
        self.layers: tuple[int, int] | None = None

    def read(self, line: str) -> None:
        if "offloaded" in line and (found := _SAID.search(line)):
            self.layers = int(found[1]), int(found[2])


def gpu_backends() -> tuple[str, ...]:
    """The backends for GPUs that llama.cpp is built with, whether there is a GPU or not."""
    backend.start()
    libggml.ggml_backend_reg_count.restype = ctypes.c_size_t
    libggml.ggml_backend_reg_get.argtypes = [ctypes.c_size_t]
    libggml.ggml_backend_reg_get.restype = ctypes.c_void_p
    libggml.ggml_backend_reg_name.argtypes = [ctypes.c_void_p]
    libggml.ggml_backend_reg_name.restype = ctypes.c_char_p
    registered = [libggml.ggml_backend_reg_get(i) for i in range(libggml.ggml_backend_reg_count())]
    names = [libggml.ggml_backend_reg_name(each).decode("utf-8", "replace") for each in registered]
    return tuple(name for name in names if not name.startswith(_NOT_GPUS))
