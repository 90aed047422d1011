"""The tensors that are not on the device of their layer: the experts of some layers, in main memory."""

from __future__ import annotations

import ctypes

from worker_gguf.llama.bindings import libggml

__all__ = ["Override", "experts_in_main_memory"]


class Override(ctypes.Structure):
    """llama.h: struct llama_model_tensor_buft_override, which llama_cpp does not bind."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


def experts_in_main_memory(n_layers: int) -> ctypes.Array[Override] | None:
    """Return the overrides for the first `n_layers`, or None if there are none. Keep them until the model is loaded."""
    if n_layers <= 0:
        return None
    libggml.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    main_memory = libggml.ggml_backend_cpu_buffer_type()
    patterns = [rf"blk\.{layer}\.ffn_(up|down|gate|gate_up)_(ch|)exps".encode() for layer in range(n_layers)]
    # The last entry, without a pattern, ends the list.
    return (Override * (n_layers + 1))(*(Override(pattern, main_memory) for pattern in patterns))
