"""Tests of a context apart from what it computes."""

from __future__ import annotations

from worker_gguf.engine.params import ContextParams
from worker_gguf.llama.bindings import llama_cpp
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model


def test_threads_are_limited_for_a_while(model: Model) -> None:
    params = ContextParams(
        n_ctx=256, n_parallel=1, n_cells=256, n_batch=64, n_ubatch=64, n_threads=3, n_threads_batch=1, unified=True
    )
    context = Context(model, params)

    def threads() -> tuple[int, int]:
        pointer = context._pointer
        return llama_cpp.llama_n_threads(pointer), llama_cpp.llama_n_threads_batch(pointer)

    with context.limiting_threads(2):
        assert threads() == (2, 1)
    assert threads() == (3, 1)
    context.close()
