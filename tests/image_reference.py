"""The reference for answers to images: mtmd's own helper, and a bare loop over llama.cpp's functions."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from worker_gguf.engine.params import ContextParams
from worker_gguf.llama.bindings import llama_cpp, mtmd
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model
from worker_gguf.llama.projector import Projector

__all__ = ["PARAMS", "Piece", "by_the_helper", "text_of"]

Piece = list[int] | bytes
"""Tokens of a text, or the file of an image."""

# As in test_kinds.py: in f32 and without flash attention, another order of sums changes no token.
PARAMS = ContextParams(
    n_ctx=256, n_parallel=3, n_cells=768, n_batch=128, n_ubatch=128, n_threads=1, n_threads_batch=1, unified=True,
    flash_attn="off", type_k="f32", type_v="f32",
)  # fmt: skip


def by_the_helper(model: Model, projector: Projector, pieces: Sequence[Piece], n: int) -> list[int]:
    """Return the most likely tokens after BOS and the pieces of a prompt, as mtmd's own helper computes it."""
    context = Context(model, PARAMS)
    pointer = context._pointer
    position = _evaluate(context, projector, pieces)
    drawn: list[int] = []
    for _ in range(n):
        row = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(pointer, -1), (model.n_vocab,))
        drawn.append(int(row.argmax()))
        token = (ctypes.c_int32 * 1)(drawn[-1])
        batch = llama_cpp.llama_batch_get_one(token, 1)
        batch.pos = (ctypes.c_int32 * 1)(position)
        assert llama_cpp.llama_decode(pointer, batch) == 0
        position += 1
    context.close()
    return drawn


def _evaluate(context: Context, projector: Projector, pieces: Sequence[Piece]) -> int:
    """Compute BOS and the pieces, and return the next position."""
    library = mtmd()
    kept: list[object] = []
    parts, bitmaps = [], []
    for piece in pieces:
        if isinstance(piece, bytes):
            data = (ctypes.c_uint8 * len(piece)).from_buffer_copy(piece)
            bitmaps.append(library.mtmd_helper_bitmap_init_from_buf(projector._pointer, data, len(piece), False))
            parts.append(library.mtmd_input_part(None, bitmaps[-1]))
        else:
            text = library.mtmd_input_text(text_of(piece), len(piece), False, True)
            kept.append(text)
            parts.append(library.mtmd_input_part(ctypes.pointer(text), None))
    pointers = (ctypes.POINTER(library.mtmd_input_part) * len(parts))(*map(ctypes.pointer, parts))
    chunks = library.mtmd_input_chunks_init()
    assert library.mtmd_tokenize_from_parts(projector._pointer, chunks, pointers, len(parts), True) == 0
    position = ctypes.c_int32()
    evaluate = library.mtmd_helper_eval_chunks
    assert evaluate(projector._pointer, context._pointer, chunks, 0, 0, 128, True, ctypes.byref(position)) == 0
    library.mtmd_input_chunks_free(chunks)
    for bitmap in bitmaps:
        library.mtmd_bitmap_free(bitmap)
    return position.value


def text_of(tokens: Sequence[int]) -> bytes:
    """Return the text of tokens of the tiny models that stand for printable ASCII, which begins at token 0."""
    return bytes(token + 33 for token in tokens)
