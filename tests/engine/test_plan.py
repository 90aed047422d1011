"""Facts of the memory plan."""

from __future__ import annotations

import pytest

from worker_gguf.engine.plan import Device, Machine, ModelShape, Wishes, plan_memory
from worker_gguf.errors import NotEnoughMemory

GIB = 1 << 30
SMALL = ModelShape(2 * GIB, 28, (8,) * 28, 128, 128, 131_072)
CPU = Machine(n_cores=4, free_bytes=16 * GIB)
GPU = Machine(n_cores=8, free_bytes=64 * GIB, gpus=(Device("card", 24 * GIB, 24 * GIB),))


def test_kv_bytes_follow_layers_heads_and_types() -> None:
    assert SMALL.kv_bytes_per_token("f16", "f16") == 28 * 8 * (128 + 128) * 2
    assert SMALL.kv_bytes_per_token("q8_0", "q8_0") == 28 * 8 * 256 * 34 / 32


def test_everything_goes_to_a_gpu_that_holds_it() -> None:
    plan = plan_memory(SMALL, GPU, Wishes())
    assert (plan.n_gpu_layers, plan.n_ctx, plan.n_parallel) == (-1, 8192, 8)
    assert plan.n_cells == 8 * 8192


def test_without_a_gpu_no_layer_leaves_the_processor() -> None:
    assert plan_memory(SMALL, CPU, Wishes()).n_gpu_layers == 0


def test_what_is_asked_for_is_kept() -> None:
    wishes = Wishes(n_ctx=1024, n_parallel=3, n_gpu_layers=5, n_batch=256, n_ubatch=128, n_threads=2, kv_unified=True)
    plan = plan_memory(SMALL, GPU, wishes)
    assert (plan.n_ctx, plan.n_parallel, plan.n_gpu_layers) == (1024, 3, 5)
    assert (plan.n_batch, plan.n_ubatch, plan.n_threads, plan.kv_unified) == (256, 128, 2, True)
    assert plan.reasons["n_ctx"] == "set"


def test_the_context_is_never_longer_than_the_model_was_trained_for() -> None:
    assert plan_memory(ModelShape(GIB, 4, (2,) * 4, 32, 32, 2048), CPU, Wishes()).n_ctx == 2048


def test_context_then_sequences_shrink_until_they_fit() -> None:
    tight = Machine(n_cores=2, free_bytes=3 * GIB)
    plan = plan_memory(SMALL, tight, Wishes())
    assert plan.kv_bytes <= 3 * GIB - 2 * GIB
    assert plan.n_ctx < 8192
    assert "halved" in plan.reasons["n_ctx"]


def test_a_model_too_large_for_the_gpu_is_split() -> None:
    large = ModelShape(40 * GIB, 80, (8,) * 80, 128, 128, 8192)
    plan = plan_memory(large, GPU, Wishes())
    assert 0 < plan.n_gpu_layers < 80


def test_a_context_that_was_asked_for_is_split_between_gpu_and_processor_rather_than_refused() -> None:
    eight_b = ModelShape(5 * GIB, 32, (8,) * 32, 128, 128, 131_072)
    card = Machine(n_cores=8, free_bytes=64 * GIB, gpus=(Device("card", 16 * GIB, 16 * GIB),))
    plan = plan_memory(eight_b, card, Wishes(n_ctx=16_384, n_parallel=8))
    assert 0 < plan.n_gpu_layers < 32


def test_a_wished_ubatch_raises_the_planned_batch_and_says_so() -> None:
    plan = plan_memory(SMALL, CPU, Wishes(n_ubatch=1024))
    assert (plan.n_batch, plan.n_ubatch) == (1024, 1024)
    assert "raised" in plan.reasons["n_batch"]


def test_cells_overcommit_a_shared_memory_and_no_other() -> None:
    plan = plan_memory(SMALL, CPU, Wishes(n_ctx=1024, n_parallel=4, n_cells=2048))
    assert (plan.kv_unified, plan.n_cells) == (True, 2048)
    assert plan_memory(SMALL, CPU, Wishes(n_ctx=1024, n_parallel=4, n_cells=10)).n_cells == 1024
    assert plan_memory(SMALL, CPU, Wishes(n_ctx=1024, n_parallel=4)).n_cells == 4096


def test_not_enough_memory_says_how_much_and_what_to_do() -> None:
    with pytest.raises(NotEnoughMemory, match=r"2\.0 GiB.*N_CTX"):
        plan_memory(SMALL, Machine(n_cores=2, free_bytes=2 * GIB), Wishes())
