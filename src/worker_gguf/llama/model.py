"""A loaded GGUF model: its weights, vocabulary and metadata."""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from worker_gguf.engine.params import ModelParams
from worker_gguf.errors import ModelInvalid, NotEnoughMemory
from worker_gguf.llama import backend
from worker_gguf.llama.bindings import llama_cpp
from worker_gguf.llama.offload import Offload
from worker_gguf.llama.overrides import experts_in_main_memory, without_vocabulary
from worker_gguf.llama.stream import open_stream
from worker_gguf.llama.vocabulary import Vocabulary
from worker_gguf.llama.vocabulary_only import read_vocabulary

__all__ = ["Model"]

# llama.h: enum llama_load_mode and enum llama_split_mode
LOAD_MODES = {"auto": -1, "none": 0, "mmap": 1, "mlock": 2, "direct": 4}
SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}


# llama.cpp logs this when all files of a split model are open and none is mapped or read yet.
_ALL_OPEN = "GGUFs metadata loaded"


class Model:
    """The weights in memory, read-only once loaded. Close it after its contexts.

    `n_vocab` is the number of tokens. `offloaded` is the number of layers on GPUs and the number of all layers, as
    llama.cpp logged them, or None. `window` is the number of tokens that layers with a sliding window look back on, 0
    if there are none. `is_recurrent` also holds for hybrid models: their memory has one state for each sequence.
    """

    def __init__(
        self,
        path: Path,
        params: ModelParams,
        *,
        progress: Callable[[float], bool] | None = None,
        fd: int | None = None,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        """Load a model; for a split file, `path` is its first part.

        `progress` is called with 0..1 on the loading thread and cancels the load by returning False. With `fd`, the
        model is read through that descriptor, which the caller must close, and `path` is only the name of the file.
        Without `fd`, `opened` is called when all files of a split model are open and none has been read. Raises
        ModelInvalid or NotEnoughMemory with the message of llama.cpp.
        """
        backend.start()
        backend.forget_errors()
        shares, overrides = _shares(params.tensor_split), experts_in_main_memory(params.n_cpu_moe)
        values = without_vocabulary(params.vocabulary_size) if params.vocabulary_size else None
        native = _native(params)
        if shares is not None:
            native.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
        if overrides is not None:
            native.tensor_buft_overrides = ctypes.addressof(overrides)
        native.kv_overrides = values
        native.progress_callback = on_progress = _callback_of(progress)
        offload = Offload()
        self._name = path.name
        # Not later by its name, for which another file may stand then, and some mounts drop a file's pages when it is
        # opened once more.
        self._fd = _own_fd(path, fd) if values is not None else None
        self._vocabulary: Vocabulary | None = None
        self._reading = threading.Lock()
        with backend.loading(path.name), backend.watching(offload.read):
            pointer = _load_by_name(path, native, opened) if fd is None else _load_from(fd, native)
            del on_progress
            if not pointer:
                self._close_fd()
                raise _why_no_model(path)
        self.pointer: llama_cpp.llama_model_p = pointer
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(pointer))
        self.offloaded = offload.layers
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(pointer)
        self.n_params: int = llama_cpp.llama_model_n_params(pointer)
        self.is_recurrent = _is_recurrent(pointer)
        self.window: int = llama_cpp.llama_model_n_swa(pointer)
        with self._closing_on_error():
            if why := _why_unserved(pointer) or (self.vocabulary.why_unusable() if self._fd is None else None):
                raise ModelInvalid(f"{path.name} cannot be served: it is {why}. Choose another model.")

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary. If the model was loaded without it, the first use reads it from the open file.

        That takes 0.2 to 0.5 s for 128k tokens. Thread-safe. Raises ModelInvalid.
        """
        with self._reading:
            return self._read_vocabulary()

    def _read_vocabulary(self) -> Vocabulary:
        if self._vocabulary is None:
            if self._fd is None:
                self._vocabulary = Vocabulary(self.pointer)
            else:
                read = read_vocabulary(self._fd, self._name)
                if read.n_tokens != self.n_vocab:
                    read.close()
                    raise ModelInvalid(f"{self._name} was changed after it was loaded.")
                self._vocabulary = read
        return self._vocabulary

    def cells_per_pass(self) -> float:
        """Return the number of cells of a KV memory in f16 that are as large as the weights.

        So attention over these cells takes about as long as reading the weights for a pass. Infinite on a GPU, where
        attention skips the cells that a sequence does not have, and without a KV memory.
        """
        if self.offloaded is not None and self.offloaded[0]:
            return math.inf
        n_heads = llama_cpp.llama_model_n_head(self.pointer)
        elements = llama_cpp.llama_model_n_embd(self.pointer) // max(1, n_heads)
        elements *= llama_cpp.llama_model_n_head_kv(self.pointer) * llama_cpp.llama_model_n_layer(self.pointer)
        size: int = llama_cpp.llama_model_size(self.pointer)
        return size / (2 * 2 * elements) if elements else math.inf

    @contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.pointer is not None:
            if self._vocabulary is not None:
                self._vocabulary.close()
            llama_cpp.llama_model_free(self.pointer)
            self.pointer = None
            self._close_fd()

    def _close_fd(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _native(params: ModelParams) -> llama_cpp.llama_model_params:
    """Return the parameters that are plain values. Arrays must outlive the load, so the caller sets and keeps those."""
    native = llama_cpp.llama_model_default_params()
    native.n_gpu_layers = params.n_gpu_layers
    native.load_mode = LOAD_MODES[params.load_mode]
    native.split_mode = SPLIT_MODES[params.split_mode]
    native.main_gpu = params.main_gpu
    native.use_extra_bufts = params.repack
    native.load_mtp = params.has_mtp
    return native


def _callback_of(progress: Callable[[float], bool] | None) -> llama_cpp.llama_progress_callback:
    """Return the function as llama.cpp calls it. Keep it until the model is loaded."""

    @llama_cpp.llama_progress_callback
    def on_progress(fraction: float, _user_data: ctypes.c_void_p) -> bool:
        return progress is None or progress(fraction)

    return on_progress


def _own_fd(path: Path, fd: int | None) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC) if fd is None else os.dup(fd)
    except OSError as error:
        raise ModelInvalid(f"{path.name} could not be loaded: {error.strerror}.") from None


def _load_by_name(
    path: Path, native: llama_cpp.llama_model_params, opened: Callable[[], None]
) -> llama_cpp.llama_model_p | None:
    with backend.watching(lambda line: opened() if _ALL_OPEN in line else None):
        return llama_cpp.llama_model_load_from_file(str(path).encode(), native)


def _load_from(fd: int, native: llama_cpp.llama_model_params) -> llama_cpp.llama_model_p | None:
    with open_stream(fd) as stream:
        return llama_cpp.llama_model_load_from_file_ptr(stream, native)


def _is_recurrent(pointer: llama_cpp.llama_model_p) -> bool:
    return bool(llama_cpp.llama_model_is_recurrent(pointer) or llama_cpp.llama_model_is_hybrid(pointer))


def _why_unserved(pointer: llama_cpp.llama_model_p) -> str | None:
    if llama_cpp.llama_model_has_encoder(pointer) and llama_cpp.llama_model_has_decoder(pointer):
        return "an encoder with a decoder, which is not served yet"
    if llama_cpp.llama_model_is_diffusion(pointer):
        return "a diffusion model, which is not served yet"
    return None


def _shares(tensor_split: tuple[float, ...]) -> ctypes.Array[ctypes.c_float] | None:
    if not tensor_split:
        return None
    n_devices = llama_cpp.llama_max_devices()
    padded = (*tensor_split, *[0.0] * n_devices)[:n_devices]
    return (ctypes.c_float * n_devices)(*padded)


def _why_no_model(path: Path) -> ModelInvalid | NotEnoughMemory:
    lines = backend.recent_errors()
    reported = " ".join(lines[-3:]) or "llama.cpp gave no reason."
    if any("alloc" in line or "out of memory" in line for line in lines):
        return NotEnoughMemory(
            f"{path.name} does not fit in memory: choose a smaller quantisation or lower N_GPU_LAYERS. "
            f"llama.cpp reported: {reported}"
        )
    return ModelInvalid(f"{path.name} could not be loaded. llama.cpp reported: {reported}")
