"""LoRA adapters: loads them beside a model, and changes those with which a context computes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.errors import ModelInvalid, NotEnoughMemory
from worker_gguf.llama import backend
from worker_gguf.llama.bindings import llama_cpp
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model
from worker_gguf.llama.stream import open_stream

__all__ = ["Adapter", "ContextAdapters"]

# llama-context.cpp: sched_reserve, which the first decode with other adapters calls
_RESERVED = re.compile(r"reserve took ([\d.]+) ms")
_NODES = re.compile(r"graph.*: nodes = (\d+)")
# llama-adapter.cpp: llama_adapter_lora_init_impl
_LOADED = re.compile(r"loaded (\d+) tensors from lora file")


class Adapter:
    """An adapter in memory, each tensor on the device of the matrix that it changes. Closing the model frees it."""

    def __init__(self, model: Model, model_name: str, name: str, path: Path, fd: int | None = None) -> None:
        """With `fd`, the file is read through that descriptor, which the caller must close.

        Raises ModelInvalid or NotEnoughMemory with the message of llama.cpp. `name` stands for the adapter there.
        """
        self.name = name
        self.n_matrices = 0
        """The number of matrices that it changes; 0 if llama.cpp did not log it."""
        backend.forget_errors()
        with backend.loading(path.name), backend.watching(self._read):
            pointer = _load(model, path, fd)
        if not pointer:
            raise _why_no_adapter(f"{name} ({path.name})", model_name)
        self.pointer: llama_cpp.llama_adapter_lora_p = pointer

    def _read(self, line: str) -> None:
        if found := _LOADED.search(line):
            self.n_matrices = int(found[1]) // 2


class ContextAdapters:
    """The adapters with which one context computes."""

    def __init__(self, context: Context, adapters: Sequence[Adapter]) -> None:
        self.current: AdapterSet = ()
        self.last_switch_seconds = 0.0
        """What the last change took; 0 if llama.cpp did not log it."""
        self.n_nodes = 0
        self._context = context
        self._adapters = tuple(adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    @contextmanager
    def switching(self, wanted: AdapterSet) -> Iterator[None]:
        """Compute with these adapters from now on. The decode inside this context carries the change out."""
        self._context.use_adapters([self._adapters[number].pointer for number, _ in wanted], [s for _, s in wanted])
        self.current, self.last_switch_seconds = wanted, 0.0
        with backend.watching(self._read):
            yield

    def _read(self, line: str) -> None:
        if found := _RESERVED.search(line):
            self.last_switch_seconds = float(found[1]) / 1000
        elif found := _NODES.search(line):
            self.n_nodes = int(found[1])


def _load(model: Model, path: Path, fd: int | None) -> llama_cpp.llama_adapter_lora_p | None:
    if fd is None:
        return llama_cpp.llama_adapter_lora_init(model.pointer, str(path).encode())
    with open_stream(fd) as stream:
        return llama_cpp.llama_adapter_lora_init_from_file_ptr(model.pointer, stream)


def _why_no_adapter(adapter: str, model: str) -> ModelInvalid | NotEnoughMemory:
    lines = backend.recent_errors()
    reported = " ".join(lines[-3:]) or "llama.cpp gave no reason."
    if any("allocate" in line or "out of memory" in line for line in lines):
        return NotEnoughMemory(
            f"The adapter {adapter} does not fit in memory beside {model}: lower N_GPU_LAYERS, or remove it "
            f"from LORA. llama.cpp reported: {reported}"
        )
    return ModelInvalid(
        f"The adapter {adapter} of LORA cannot be used with {model}: take one that was trained for this model, or "
        f"remove it from LORA. llama.cpp reported: {reported}"
    )
