"""Loads only the vocabulary of a model, without its weights."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from worker_gguf.errors import ModelInvalid
from worker_gguf.llama import backend
from worker_gguf.llama.bindings import llama_cpp
from worker_gguf.llama.stream import open_stream
from worker_gguf.llama.vocabulary import Vocabulary

__all__ = ["load_vocabulary", "read_vocabulary"]

# llama.h: LLAMA_KV_OVERRIDE_TYPE_INT
_INT = 0


def load_vocabulary(path: Path, header: bytes, size_bytes: int) -> Vocabulary:
    """Load the vocabulary from the first `header` bytes of the file of a model, which has `size_bytes`.

    `path` is only the name of the file. The vocabulary owns its memory: call its `close`. Raises ModelInvalid.
    """
    backend.start(uses_gpus=False)
    fd = os.memfd_create("vocabulary")
    try:
        os.write(fd, header)
        os.ftruncate(fd, size_bytes)  # the loader checks that all tensors are inside the file, and reads none of them
        return _load(fd, path.name)
    finally:
        os.close(fd)


def read_vocabulary(fd: int, name: str) -> Vocabulary:
    """Load the vocabulary from an open file of which nothing else is read: the first one, for a split model.

    Moves the position in the file. The vocabulary owns its memory: call its `close`. Raises ModelInvalid.
    """
    try:
        return _load(fd, name)
    except OSError as error:
        raise ModelInvalid(f"The vocabulary of {name} could not be read: {error.strerror}.") from None


def _load(fd: int, name: str) -> Vocabulary:
    backend.forget_errors()
    native = llama_cpp.llama_model_default_params()
    native.vocab_only = True
    native.n_gpu_layers = 0
    native.kv_overrides = overrides = _as_one_file()
    with open_stream(fd) as stream, backend.loading(name):
        pointer = llama_cpp.llama_model_load_from_file_ptr(stream, native)
    del overrides
    if not pointer:
        reported = " ".join(backend.recent_errors()[-3:]) or "llama.cpp gave no reason."
        raise ModelInvalid(f"The vocabulary of {name} could not be loaded. llama.cpp reported: {reported}")
    return Vocabulary(pointer, lambda: llama_cpp.llama_model_free(pointer))


def _as_one_file() -> ctypes.Array[llama_cpp.llama_model_kv_override]:
    """Return overrides that make the loader read the first part of a split model alone."""
    overrides = (llama_cpp.llama_model_kv_override * 2)()
    overrides[0].key = b"split.count"
    overrides[0].tag = _INT
    overrides[0].value.val_i64 = 0
    return overrides
