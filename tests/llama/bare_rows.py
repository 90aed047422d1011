"""The hidden rows of a text, with nothing but llama.cpp's functions: what every way of pooling starts from."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

__all__ = ["bare_rows"]

Rows = NDArray[np.float32]


def bare_rows(path: Path, texts: Sequence[Sequence[int]]) -> list[Rows]:
    """Return one row for each token, for each text: the output of the last layer, normed, before any pooling."""
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers, model_params.use_extra_bufts = 0, False
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = 1
    params.embeddings, params.pooling_type = True, 0  # llama.h: LLAMA_POOLING_TYPE_NONE
    context = llama_cpp.llama_init_from_model(model, params)
    width = llama_cpp.llama_model_n_embd(model)
    found = []
    for text in texts:
        if memory := llama_cpp.llama_get_memory(context):
            llama_cpp.llama_memory_clear(memory, True)
        batch = llama_cpp.llama_batch_init(len(text), 0, 1)
        for at, token in enumerate(text):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, at, 1
            batch.seq_id[at][0], batch.logits[at] = 0, 1
        batch.n_tokens = len(text)
        assert llama_cpp.llama_decode(context, batch) == 0
        llama_cpp.llama_batch_free(batch)
        addresses = (
            ctypes.addressof(llama_cpp.llama_get_embeddings_ith(context, at).contents) for at in range(len(text))
        )
        found.append(np.array([(ctypes.c_float * width).from_address(address) for address in addresses], np.float32))
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return found
