"""Reads the current state of the machine: cores, free memory, GPUs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from worker_gguf.engine.machine import Device, Machine
from worker_gguf.llama import backend
from worker_gguf.llama.bindings import libggml

__all__ = ["gpu_device", "n_cores", "read_machine"]

# ggml-backend.h: enum ggml_backend_dev_type; integrated GPUs share main memory but compute in the same way.
_GPU_TYPES = (1, 2)
_CGROUP = Path("/sys/fs/cgroup")
# Control groups version 1 express "no limit" as a number larger than any memory.
_NO_LIMIT = 1 << 60


def read_machine() -> Machine:
    """Start the backends if necessary and read the state of the machine."""
    backend.start()
    return Machine(n_cores=n_cores(), free_bytes=_free_bytes(), gpus=_gpus())


def n_cores() -> int:
    """Return the cores that this process may use: its affinity, limited by the container's quota."""
    n = len(os.sched_getaffinity(0))
    quota, period = _numbers("cpu.max", 2) or (
        *(_numbers("cpu/cpu.cfs_quota_us", 1) or (-1,)),
        *(_numbers("cpu/cpu.cfs_period_us", 1) or (1,)),
    )
    return n if quota <= 0 or period <= 0 else max(1, min(n, round(quota / period)))


def _free_bytes(cgroup: Path = _CGROUP) -> int:
    """Return the memory that can still be allocated: the kernel's estimate, limited by the container's limit.

    A control group counts cached pages as used, although the kernel frees them when memory is short. They count as free
    here, because otherwise a model that was just read into the page cache would be counted twice.
    """
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit = _numbers("memory.max", 1, cgroup) or _numbers("memory/memory.limit_in_bytes", 1, cgroup)
    used = _numbers("memory.current", 1, cgroup) or _numbers("memory/memory.usage_in_bytes", 1, cgroup)
    if not limit or not used or not 0 < limit[0] < _NO_LIMIT:
        return available
    return min(available, max(0, limit[0] - used[0] + _page_cache_bytes(cgroup)))


def _page_cache_bytes(cgroup: Path) -> int:
    """Return the size of the group's cached file pages, which the kernel frees when memory is short."""
    for name, prefix in (("memory.stat", ""), ("memory/memory.stat", "total_")):
        try:
            pairs = (line.split() for line in (cgroup / name).read_text().splitlines())
            stat = {key: int(value) for key, value in pairs}
        except (OSError, ValueError):
            continue
        return stat.get(f"{prefix}active_file", 0) + stat.get(f"{prefix}inactive_file", 0)
    return 0


def _numbers(name: str, n: int, cgroup: Path = _CGROUP) -> tuple[int, ...] | None:
    """Read `n` numbers from a file of a control group, "max" as -1. Returns None if the file does not exist."""
    try:
        words = (cgroup / name).read_text().split()
        return tuple(-1 if word == "max" else int(word) for word in words[:n])
    except (OSError, ValueError):
        return None


def gpu_device(index: int) -> int:
    """Return ggml's pointer to a GPU by its place among those of `read_machine`."""
    return list(_gpu_devices())[index]


def _gpus() -> tuple[Device, ...]:
    gpus = []
    for device in _gpu_devices():
        free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
        libggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name = libggml.ggml_backend_dev_description(device).decode("utf-8", "replace")
        # CUDA opens the context of this process to answer, so what is free now is without it.
        gpus.append(Device(name, free.value, total.value, has_context=True))
    return tuple(gpus)


def _gpu_devices() -> Iterator[int]:
    _declare()
    for index in range(libggml.ggml_backend_dev_count()):
        device: int = libggml.ggml_backend_dev_get(index)
        if libggml.ggml_backend_dev_type(device) in _GPU_TYPES:
            yield device


def _declare() -> None:
    """Declare ggml's functions for its device list, which llama_cpp does not bind."""
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
