"""Tests of the memory plan."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from worker_gguf.engine.machine import Device, Machine
from worker_gguf.errors import NotEnoughMemory
from worker_gguf.plan import (
    GPU_CONTEXT_BYTES,
    Constraints,
    LayerShape,
    Layout,
    ModelShape,
    measure,
    plan_memory,
    preference,
    smaller_plan,
)

GIB = 1 << 30


def dense(weights_bytes: int, n_layers: int, *, experts: float = 0.0, n_ctx_train: int = 131_072) -> ModelShape:
    """8 KV heads of 128; an output as large as a layer; `experts` is their share of a layer."""
    part = weights_bytes // (n_layers + 2)
    layer = LayerShape(round(part * (1 - experts)), round(part * experts), 1024, 1024)
    return ModelShape(
        (layer,) * n_layers,
        part,
        part,
        tied=False,
        n_ctx_train=n_ctx_train,
        n_vocab=32_000,
        n_embd=4096,
        n_ff=14_336,
        n_head=32,
        n_q=4096,
        n_kv=1024,
    )


def gpus(*gib: float, main: float = 64) -> Machine:
    cards = tuple(Device(f"card {i}", round(size * GIB), round(size * GIB)) for i, size in enumerate(gib))
    return Machine(8, round(main * GIB), cards)


SMALL = dense(2 * GIB, 28)
LARGE = dense(40 * GIB, 80)
MOE = dense(60 * GIB, 48, experts=0.95)
CPU = Machine(n_cores=4, free_bytes=16 * GIB)
GPU = gpus(24)


def test_kv_bytes_follow_layers_heads_and_types() -> None:
    assert SMALL.kv_bytes_per_token("f16", "f16") == 28 * 8 * (128 + 128) * 2
    assert SMALL.kv_bytes_per_token("q8_0", "q8_0") == 28 * 8 * 256 * 34 / 32


def test_everything_goes_to_a_gpu_that_holds_it() -> None:
    plan = plan_memory(SMALL, GPU, Constraints(n_ctx=8192))
    assert (plan.n_gpu_layers, plan.n_ctx, plan.n_parallel) == (-1, 8192, 8)
    assert plan.n_cells == 8 * 8192
    card, main = plan.devices
    assert (card.n_layers, main.n_layers) == (28, 0)
    assert main.weights_bytes == SMALL.input_bytes


def test_without_a_gpu_no_layer_leaves_the_processor() -> None:
    plan = plan_memory(SMALL, CPU, Constraints())
    assert plan.n_gpu_layers == 0
    assert plan.devices[-1].weights_bytes == SMALL.weights_bytes


def test_values_that_are_set_are_kept() -> None:
    constraints = Constraints(
        n_ctx=1024, n_parallel=3, n_gpu_layers=5, n_batch=256, n_ubatch=128, n_threads=2, kv_unified=True, type_k="f32"
    )
    plan = plan_memory(SMALL, GPU, constraints)
    assert (plan.n_ctx, plan.n_parallel, plan.n_gpu_layers, plan.type_k) == (1024, 3, 5, "f32")
    assert (plan.n_batch, plan.n_ubatch, plan.n_threads, plan.kv_unified) == (256, 128, 2, True)
    assert plan.reasons["n_ctx"] == "set"
    assert plan.devices[0].n_layers == 4  # the fifth is the output


def test_the_context_is_never_longer_than_the_model_was_trained_for() -> None:
    assert plan_memory(dense(GIB, 4, n_ctx_train=2048), CPU, Constraints()).n_ctx == 2048


@pytest.mark.parametrize(
    ("free_gib", "n_parallel", "n_ctx", "type_k"),
    [(8, 4, 8192, "f16"), (4.8, 2, 8192, "f16"), (3.7, 2, 4096, "f16"), (3.2, 1, 4096, "f16"), (2.98, 1, 4096, "q8_0"),
     (2.68, 1, 1024, "q8_0")],
)  # fmt: skip
def test_sequences_context_and_kv_types_shrink_in_turn(
    free_gib: float, n_parallel: int, n_ctx: int, type_k: str
) -> None:
    plan = plan_memory(SMALL, Machine(2, round(free_gib * GIB)), Constraints())
    assert (plan.n_parallel, plan.n_ctx, plan.type_k) == (n_parallel, n_ctx, type_k)
    assert plan.devices[-1].fits
    if n_parallel < 4:
        assert "halved" in plan.reasons["n_parallel"]


def test_a_quantised_kv_is_not_planned_without_flash_attention() -> None:
    plan = plan_memory(SMALL, Machine(2, round(3.05 * GIB)), Constraints(flash_attn=False, n_ubatch=64))
    assert plan.type_k == "f16"


UNGROUPED = replace(SMALL, n_kv=4096)


@pytest.mark.parametrize(
    ("model", "machine", "constraints", "flash_attn", "why"),
    [
        (SMALL, CPU, Constraints(), True, "several heads"),
        (UNGROUPED, CPU, Constraints(), False, "this model are faster without it"),
        (UNGROUPED, CPU, Constraints(n_ctx=2048), False, "this model are faster without it"),
        (UNGROUPED, CPU, Constraints(n_ctx=2047), True, "short contexts"),
        (UNGROUPED, GPU, Constraints(), True, "default for this device"),
        (UNGROUPED, CPU, Constraints(type_v="q8_0"), True, "a quantised KV cache needs it"),
        (UNGROUPED, CPU, Constraints(flash_attn=True), True, "set"),
        (SMALL, CPU, Constraints(flash_attn=False), False, "set"),
        # The scores of 4 sequences of 8192 tokens need memory that is not there.
        (UNGROUPED, Machine(2, round(6.2 * GIB)), Constraints(), True, "it needs less memory"),
    ],
)
def test_flash_attention_is_planned_where_it_is_faster_needed_or_smaller(
    model: ModelShape, machine: Machine, constraints: Constraints, flash_attn: bool, why: str
) -> None:
    plan = plan_memory(model, machine, constraints)
    assert plan.flash_attn is flash_attn
    assert why in plan.reasons["flash_attn"]


def test_a_smaller_plan_keeps_flash_attention_as_it_was() -> None:
    plan = plan_memory(UNGROUPED, CPU, Constraints())
    smaller = smaller_plan(plan, "context", UNGROUPED, CPU, Constraints())
    assert smaller is not None
    assert not smaller.flash_attn


def test_a_model_too_large_for_the_gpu_is_split() -> None:
    plan = plan_memory(LARGE, GPU, Constraints())
    assert 0 < plan.n_gpu_layers < 80
    more = Layout(plan.n_ctx, plan.n_parallel, plan.kv_unified, 2048, 512, n_gpu_layers=plan.n_gpu_layers + 2)
    assert not measure(LARGE, GPU, more)[0].fits


def test_experts_stay_behind_before_layers_do() -> None:
    plan = plan_memory(MOE, GPU, Constraints())
    assert plan.n_gpu_layers == -1
    assert 0 < plan.n_cpu_moe < 48
    assert all(device.fits for device in plan.devices)
    fewer = Layout(
        plan.n_ctx, plan.n_parallel, plan.kv_unified, 2048, 512, n_gpu_layers=-1, n_cpu_moe=plan.n_cpu_moe - 1
    )
    assert not measure(MOE, GPU, fewer)[0].fits


def test_layers_stay_behind_where_no_expert_fits() -> None:
    plan = plan_memory(MOE, gpus(3.5, main=96), Constraints())
    assert plan.n_cpu_moe == 48
    assert 0 < plan.n_gpu_layers < 49


def test_several_gpus_share_by_free_memory() -> None:
    plan = plan_memory(LARGE, gpus(48, 24), Constraints())
    first, second, _ = plan.devices
    assert plan.n_gpu_layers == -1
    assert sum(plan.tensor_split) == 81
    assert first.n_layers + second.n_layers == 80
    assert first.used_bytes / first.room_bytes == pytest.approx(second.used_bytes / second.room_bytes, rel=0.06)


def test_a_split_that_is_set_places_layers_as_llama_cpp_does() -> None:
    plan = plan_memory(SMALL, gpus(24, 24), Constraints(tensor_split=(3.0, 1.0)))
    assert [device.n_layers for device in plan.devices] == [22, 6, 0]


def test_a_tied_output_is_a_second_copy_on_the_gpu_only() -> None:
    tied = replace(SMALL, tied=True)
    on_cpu, on_gpu = plan_memory(tied, CPU, Constraints()), plan_memory(tied, GPU, Constraints())
    assert on_gpu.weights_bytes - on_cpu.weights_bytes == tied.output_bytes


def test_layers_without_kv_cost_none() -> None:
    mixed = replace(
        SMALL, layers=(SMALL.layers[0], replace(SMALL.layers[0], k_elements=0, v_elements=0, state_bytes=7))
    )
    use = measure(mixed, CPU, Layout(256, 2, False, 512, 512))[-1]
    assert use.kv_bytes == 2 * 256 * 2 * 2048 + 2 * 7


def test_a_context_that_is_set_is_kept_and_other_values_are_reduced() -> None:
    plan = plan_memory(dense(5 * GIB, 32), gpus(16), Constraints(n_ctx=16_384, n_parallel=8))
    assert (plan.n_ctx, plan.n_parallel) == (16_384, 8)
    assert plan.type_k == "q8_0" or plan.n_gpu_layers > 0
    kept = plan_memory(
        dense(5 * GIB, 32), gpus(16), Constraints(n_ctx=16_384, n_parallel=8, type_k="f16", type_v="f16")
    )
    assert 0 < kept.n_gpu_layers < 32


def test_a_larger_ubatch_raises_the_planned_batch_with_a_reason() -> None:
    plan = plan_memory(SMALL, CPU, Constraints(n_ubatch=1024))
    assert (plan.n_batch, plan.n_ubatch) == (1024, 1024)
    assert "raised" in plan.reasons["n_batch"]


def test_cells_overcommit_a_shared_memory_and_no_other() -> None:
    plan = plan_memory(SMALL, CPU, Constraints(n_ctx=1024, n_parallel=4, n_cells=2048))
    assert (plan.kv_unified, plan.n_cells) == (True, 2048)
    assert plan_memory(SMALL, CPU, Constraints(n_ctx=1024, n_parallel=4, n_cells=10)).n_cells == 1024
    assert plan_memory(SMALL, CPU, Constraints(n_ctx=1024, n_parallel=4)).n_cells == 4096


def test_not_enough_memory_is_reported_with_its_size_and_a_next_step() -> None:
    with pytest.raises(NotEnoughMemory, match=r"2\.0 GiB are weights.*smaller quantisation, of at most 1\.\d GiB"):
        plan_memory(SMALL, Machine(n_cores=2, free_bytes=2 * GIB), Constraints())


def test_values_that_do_not_fit_are_reported_with_values_that_would() -> None:
    with pytest.raises(NotEnoughMemory, match="N_PARALLEL=2 N_CTX=8192 would fit"):
        plan_memory(SMALL, Machine(2, 5 * GIB), Constraints(n_parallel=16, n_ctx=32_768))


def test_smaller_plans_reduce_a_grown_context_then_sequences_then_context_then_layers() -> None:
    plan = plan_memory(SMALL, GPU, Constraints())
    assert plan.n_ctx == 22_528
    steps = []
    while smaller := smaller_plan(plan, "context", SMALL, GPU, Constraints()):
        plan = smaller
        steps.append((plan.n_parallel, plan.n_ctx, plan.n_gpu_layers))
    assert steps[:9] == [
        (8, 11_264, -1), (8, 8192, -1), (4, 8192, -1),
        (2, 8192, -1), (1, 8192, -1), (1, 4096, -1), (1, 2048, -1), (1, 2048, 21), (1, 2048, 15)
    ]  # fmt: skip
    assert steps[-1] == (1, 512, 0)
    assert plan.degraded[0] == "N_CTX=11264 instead of 22528: the load ran out of memory"
    assert plan.degraded[2] == "N_PARALLEL=4 instead of 8: the load ran out of memory"
    assert f"{plan.n_ctx} tokens for 1 request (the load ran out of memory)" in plan.weighed
    assert len(plan.degraded) == len(steps)


def test_a_smaller_plan_after_a_death_says_so() -> None:
    plan = plan_memory(SMALL, CPU, Constraints())
    smaller = smaller_plan(plan, "death", SMALL, CPU, Constraints())
    assert smaller
    assert smaller.degraded == ("N_PARALLEL=2 instead of 4: the engine process died while it opened the context",)


def test_each_gpu_with_layers_has_the_context_of_the_process() -> None:
    for machine in (GPU, gpus(24, 24)):
        *cards, main = plan_memory(SMALL, machine, Constraints()).devices
        assert [card.process_bytes for card in cards] == [600 << 20] * len(cards)
        assert main.process_bytes == 0
    assert plan_memory(SMALL, GPU, Constraints(n_gpu_layers=0)).devices[0].used_bytes == 0
    assert plan_memory(SMALL, CPU, Constraints()).devices[-1].process_bytes == 0


def test_a_context_that_is_open_already_is_counted_once() -> None:
    closed = gpus(12)
    (card,) = closed.gpus
    opened = replace(closed, gpus=(replace(card, free_bytes=card.free_bytes - GPU_CONTEXT_BYTES, has_context=True),))
    assert plan_memory(LARGE, opened, Constraints()).devices == plan_memory(LARGE, closed, Constraints()).devices


def test_the_context_leaves_room_for_fewer_layers() -> None:
    plan = plan_memory(LARGE, GPU, Constraints())
    card = plan.devices[0]
    assert card.used_bytes + LARGE.layers[0].size_bytes > card.room_bytes
    assert card.used_bytes - card.process_bytes + LARGE.layers[0].size_bytes < card.room_bytes


def test_a_quantised_kv_needs_a_copy_of_one_layer_in_f16_on_a_gpu_only() -> None:
    f16, q8_0 = (Layout(4096, 4, False, 512, 512, kind, kind, n_gpu_layers=-1) for kind in ("f16", "q8_0"))
    more = measure(SMALL, GPU, q8_0)[0].compute_bytes - measure(SMALL, GPU, f16)[0].compute_bytes
    assert more == 4 * 4096 * 2 * 1024 * 2
    on_cpu = [measure(SMALL, CPU, replace(layout, n_gpu_layers=0))[-1].compute_bytes for layout in (f16, q8_0)]
    assert on_cpu[0] == on_cpu[1]


def test_weights_that_do_not_fit_lose_layers_on_the_gpu_only() -> None:
    plan = plan_memory(SMALL, GPU, Constraints())
    smaller = smaller_plan(plan, "load", SMALL, GPU, Constraints())
    assert smaller
    assert (smaller.n_parallel, smaller.n_gpu_layers) == (8, 21)
    assert smaller_plan(plan_memory(SMALL, CPU, Constraints()), "load", SMALL, CPU, Constraints()) is None


def test_values_that_are_set_are_never_reduced() -> None:
    constraints = Constraints(n_ctx=4096, n_parallel=4, n_gpu_layers=-1)
    assert smaller_plan(plan_memory(SMALL, GPU, constraints), "context", SMALL, GPU, constraints) is None


def test_quants_that_fit_come_first() -> None:
    sizes = {"Q8_0": 32 * GIB, "Q4_K_M": 18 * GIB, "Q2_K": 11 * GIB, "BF16": 64 * GIB}
    order = ("Q4_K_M", "Q8_0", "Q2_K", "BF16")
    assert preference(sizes, order, gpus(80)) == ("Q4_K_M", "Q8_0", "Q2_K", "BF16")
    assert preference(sizes, order, gpus(16)) == ("Q2_K", "Q4_K_M", "Q8_0", "BF16")
    assert preference(sizes, order, Machine(4, 8 * GIB)) == ("Q2_K", "Q4_K_M", "Q8_0", "BF16")
    assert preference(sizes, order, Machine(4, 16 * GIB))[0] == "Q2_K"
