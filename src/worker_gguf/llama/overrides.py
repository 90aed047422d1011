"""What a load changes of a file: tensors that are not on the device of their layer, and values of its metadata."""

from __future__ import annotations

import ctypes

from worker_gguf.engine.params import VocabularySize
from worker_gguf.llama.bindings import libggml, llama_cpp

__all__ = ["Override", "Values", "experts_in_main_memory", "without_vocabulary"]

Values = ctypes.Array[llama_cpp.llama_model_kv_override]

# llama.h: enum llama_model_kv_override_type
_INT, _TEXT = 0, 3


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


def without_vocabulary(size: VocabularySize) -> Values:
    """Return values with which llama.cpp loads no vocabulary, but `size` tokens without text.

    Source: llama_vocab::impl::load in src/llama-vocab.cpp. Keep them until the model is loaded.
    """
    values = (llama_cpp.llama_model_kv_override * 3)()  # the last one, without a key, ends the list
    values[0].key, values[0].tag, values[0].value.val_str = b"tokenizer.ggml.model", _TEXT, b"none"
    values[1].key, values[1].tag = size.key.encode(), _INT
    values[1].value.val_i64 = size.n_tokens
    return values
