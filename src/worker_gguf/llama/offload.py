"""Reads from llama.cpp's log how many layers it put on GPUs, and lists its backends for GPUs."""

from __future__ import annotations

import ctypes
import re

from worker_gguf.llama import backend
from worker_gguf.llama.bindings import libggml

__all__ = ["Offload", "gpu_backends"]

# llama-model.cpp: load_tensors
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
# ggml-backend.h has no type for a backend without a device. These compute on the processor or on another machine.
_NOT_GPUS = ("CPU", "BLAS", "RPC", "ZenDNN")


class Offload:
    """Reads llama.cpp's log lines. `layers` is (on GPUs, all), or None until llama.cpp has logged it."""

    def __init__(self) -> None:
        self.layers: tuple[int, int] | None = None

    def read(self, line: str) -> None:
        if "offloaded" in line and (found := _OFFLOADED.search(line)):
            self.layers = int(found[1]), int(found[2])


def gpu_backends() -> tuple[str, ...]:
    """Return the GPU backends that llama.cpp was built with. They do not need a GPU to be listed."""
    backend.start()
    libggml.ggml_backend_reg_count.restype = ctypes.c_size_t
    libggml.ggml_backend_reg_get.argtypes = [ctypes.c_size_t]
    libggml.ggml_backend_reg_get.restype = ctypes.c_void_p
    libggml.ggml_backend_reg_name.argtypes = [ctypes.c_void_p]
    libggml.ggml_backend_reg_name.restype = ctypes.c_char_p
    registered = [libggml.ggml_backend_reg_get(i) for i in range(libggml.ggml_backend_reg_count())]
    names = [libggml.ggml_backend_reg_name(backend_reg).decode("utf-8", "replace") for backend_reg in registered]
    return tuple(name for name in names if not name.startswith(_NOT_GPUS))
