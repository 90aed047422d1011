"""What there is to compute on: cores, free memory, GPUs. Read at the moment it is asked."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from llama_cpp._ggml import libggml

from worker_gguf.engine.plan import Device, Machine
from worker_gguf.llama import backend

__all__ = ["read_machine"]

# ggml-backend.h: enum ggml_backend_dev_type; integrated GPUs share main memory but are computed on the same way.
_GPU_TYPES = (1, 2)
_CGROUP = Path("/sys/fs/cgroup")


def read_machine() -> Machine:
    """Start the backends if need be, and look."""
    backend.start()
    return Machine(n_cores=_n_cores(), free_bytes=_free_bytes(), gpus=_gpus())


def _n_cores() -> int:
    """Cores this process may use: its affinity, cut by a container's quota."""
    n = len(os.sched_getaffinity(0))
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return n
    return n if quota == "max" else max(1, min(n, round(int(quota) / int(period))))


def _free_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that can still be had: what the kernel calls available, cut by a container's limit.

    Files in the page cache count as used there and are given back when memory is short: a model that was just read
    into it must not be counted twice.
    """
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        used -= int(stat.get("active_file", 0)) + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return available
    return available if limit == "max" else min(available, max(0, int(limit) - used))


def _gpus() -> tuple[Device, ...]:
    _declare()
    gpus = []
    for index in range(libggml.ggml_backend_dev_count()):
        device = libggml.ggml_backend_dev_get(index)
        if libggml.ggml_backend_dev_type(device) in _GPU_TYPES:
            free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
            libggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            name = libggml.ggml_backend_dev_description(device).decode("utf-8", "replace")
            gpus.append(Device(name, free.value, total.value))
    return tuple(gpus)


def _declare() -> None:
    """llama_cpp has no bindings for ggml's device list."""
    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    libggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    libggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    libggml.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    libggml.ggml_backend_dev_description.restype = ctypes.c_char_p
    libggml.ggml_backend_dev_memory.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_size_t),
        ctypes.POINTER(ctypes.c_size_t),
    ]
    libggml.ggml_backend_dev_memory.restype = None
