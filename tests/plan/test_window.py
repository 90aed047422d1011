"""Tests of the window, which grows into the memory that is left."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.plan.test_plan import CPU, GIB, GPU, LARGE, MOE, SMALL, dense, gpus
from worker_gguf.engine.machine import Device, Machine
from worker_gguf.errors import NotEnoughMemory
from worker_gguf.plan import Constraints, LayerShape, MemoryPlan, ModelShape, plan_memory
from worker_gguf.plan.kv_steps import DEFAULT_N_CTX
from worker_gguf.plan.window import CLEARED_BYTES, GROWTH_SHARE, LONGEST_N_CTX

TINY_KV = replace(SMALL, layers=tuple(replace(layer, k_elements=32, v_elements=32) for layer in SMALL.layers))


def planned(model: ModelShape, machine: Machine, **constraints: object) -> MemoryPlan:
    return plan_memory(model, machine, Constraints(**constraints))  # type: ignore[arg-type]


def test_it_grows_to_the_training_length_where_memory_allows() -> None:
    plan = planned(SMALL, gpus(141))
    assert (plan.n_ctx, plan.n_parallel, plan.n_gpu_layers) == (131_072, 8, -1)
    assert plan.reasons["n_ctx"] == "the training length of the model"


def test_it_grows_until_the_memory_is_used_and_the_requests_stay() -> None:
    plan = planned(SMALL, GPU)
    assert DEFAULT_N_CTX < plan.n_ctx < 131_072
    assert plan.n_ctx % 1024 == 0
    assert plan.n_parallel == 8
    assert plan.reasons["n_ctx"] == "all that fits in the memory that is left"
    card = plan.devices[0]
    assert card.used_bytes <= GROWTH_SHARE * card.room_bytes
    longer = planned(SMALL, GPU, n_ctx=plan.n_ctx + 1024, n_parallel=8)
    assert longer.devices[0].used_bytes > GROWTH_SHARE * card.room_bytes


def test_fewer_requests_get_longer_windows() -> None:
    assert planned(SMALL, GPU, n_parallel=1).n_ctx == 131_072
    assert planned(SMALL, GPU, n_parallel=1).n_ctx > planned(SMALL, GPU, n_parallel=4).n_ctx > planned(SMALL, GPU).n_ctx


def test_a_value_that_is_set_is_kept() -> None:
    assert planned(SMALL, GPU, n_ctx=2048).n_ctx == 2048
    assert planned(TINY_KV, CPU, n_ctx=100_000).n_ctx == 100_000


def test_nothing_grows_where_something_was_given_up() -> None:
    for model, card in ((LARGE, GPU), (MOE, GPU), (SMALL, gpus(8))):
        plan = planned(model, card)
        assert plan.n_ctx == DEFAULT_N_CTX
        assert plan.n_parallel < 8
        assert plan.reasons["n_ctx"] == "the default, because memory is short"


def test_in_main_memory_it_is_bounded_by_what_each_start_clears() -> None:
    plan = planned(TINY_KV, CPU)
    assert DEFAULT_N_CTX < plan.n_ctx < 131_072
    assert 0.9 * CLEARED_BYTES < plan.devices[-1].kv_bytes <= CLEARED_BYTES
    assert "would clear more than 512 MiB of main memory" in plan.reasons["n_ctx"]
    assert planned(TINY_KV, replace(CPU, free_bytes=64 * GIB)).n_ctx == plan.n_ctx


def test_in_main_memory_the_default_stays_even_where_clearing_it_takes_longer() -> None:
    plan = planned(SMALL, CPU)
    assert (plan.n_ctx, plan.n_parallel) == (DEFAULT_N_CTX, 4)
    assert plan.devices[-1].kv_bytes > CLEARED_BYTES


def test_layers_that_were_set_to_stay_in_main_memory_have_that_bound_too() -> None:
    plan = planned(TINY_KV, GPU, n_gpu_layers=14)
    assert DEFAULT_N_CTX < plan.n_ctx < 131_072
    assert plan.devices[-1].kv_bytes <= CLEARED_BYTES


@pytest.mark.parametrize("n_ctx_train", [1 << 20, 10 << 20])
def test_an_absurd_training_length_is_not_planned(n_ctx_train: int) -> None:
    recurrent = replace(SMALL, layers=(LayerShape(GIB // 28, state_bytes=1 << 20),) * 28, n_ctx_train=n_ctx_train)
    for machine in (GPU, CPU):
        plan = planned(recurrent, machine)
        assert plan.n_ctx == LONGEST_N_CTX
        assert "set N_CTX" in plan.reasons["n_ctx"]
    assert planned(recurrent, GPU, n_ctx=n_ctx_train).n_ctx == n_ctx_train


def test_a_file_without_a_training_length_keeps_the_default() -> None:
    assert planned(dense(GIB, 4, n_ctx_train=0), gpus(80)).n_ctx == DEFAULT_N_CTX


def test_it_does_not_overcommit_cells_that_are_set() -> None:
    assert planned(SMALL, gpus(80), n_cells=8 * DEFAULT_N_CTX).n_ctx == DEFAULT_N_CTX
    plan = planned(SMALL, gpus(80), n_cells=8 * 20_000)
    assert (plan.n_ctx, plan.n_cells) == (20_000, 160_000)


def test_models_that_share_the_memory_keep_the_default() -> None:
    plan = planned(SMALL, gpus(80), shares_memory=True)
    assert plan.n_ctx == DEFAULT_N_CTX
    assert "several models" in plan.reasons["n_ctx"]


def test_it_grows_over_several_gpus() -> None:
    plan = planned(SMALL, gpus(12, 12))
    assert plan.n_ctx > DEFAULT_N_CTX
    assert sum(plan.tensor_split) == 29
    assert all(use.used_bytes <= GROWTH_SHARE * use.room_bytes for use in plan.devices)


def test_one_sentence_says_what_was_weighed() -> None:
    assert planned(SMALL, GPU).weighed == (
        "22528 tokens for each of 8 requests (all that fits in the memory that is left): 24.0 GiB on card 0 are free, "
        "the weights take 2.0 GiB, and a token takes 112 KiB of KV memory; the model was trained for 131072."
    )
    assert planned(SMALL, CPU, n_ctx=1024, n_parallel=1).weighed == (
        "1024 tokens for 1 request (set): 16.0 GiB of main memory are free, the weights take 2.0 GiB, and a token "
        "takes 112 KiB of KV memory; the model was trained for 131072."
    )


# --- properties -------------------------------------------------------------------------------------------------------


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    model = dense(
        draw(st.integers(1, 48)) * GIB // 2,
        draw(st.integers(2, 64)),
        experts=draw(st.sampled_from([0.0, 0.9])),
        n_ctx_train=draw(st.sampled_from([0, 2048, 8192, 32_768, 131_072, 10 << 20])),
    )
    elements = draw(st.sampled_from([0, 64, 512, 1024]))
    layers = tuple(replace(layer, k_elements=elements, v_elements=elements) for layer in model.layers)
    return replace(model, layers=layers, tied=draw(st.booleans()), has_window=draw(st.booleans()))


MEMORY = st.integers(1 * GIB, 160 * GIB)
EXTRA = st.integers(2 * GIB, 120 * GIB)
CONSTRAINTS = st.builds(
    Constraints,
    n_ctx=st.sampled_from([None, None, 512, 16_384]),
    n_parallel=st.sampled_from([None, None, 1, 3, 16]),
    n_cells=st.sampled_from([None, None, None, 50_000]),
    type_k=st.sampled_from([None, None, "q8_0"]),
    flash_attn=st.sampled_from([True, True, False]),
    shares_memory=st.booleans(),
)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    cards = draw(st.lists(st.tuples(MEMORY, st.booleans()), max_size=3))
    gpus = tuple(Device(f"card {i}", free, free, has_context) for i, (free, has_context) in enumerate(cards))
    return Machine(4, draw(MEMORY), gpus)


@settings(deadline=None, max_examples=150)
@given(shapes(), machines(), CONSTRAINTS)
def test_a_plan_never_exceeds_the_memory_that_it_was_given(
    model: ModelShape, machine: Machine, constraints: Constraints
) -> None:
    try:
        plan = plan_memory(model, machine, constraints)
    except NotEnoughMemory:
        return
    assert all(use.used_bytes <= use.room_bytes for use in plan.devices)
    assert plan.n_ctx == constraints.n_ctx or constraints.n_ctx is None
    longest = max(DEFAULT_N_CTX, min(model.n_ctx_train, LONGEST_N_CTX))
    assert constraints.n_ctx is not None or plan.n_ctx <= longest


@settings(deadline=None, max_examples=100)
@given(shapes(), MEMORY, MEMORY, st.sampled_from([None, 1, 4]))
def test_more_main_memory_never_shortens_the_window(model: ModelShape, a: int, b: int, n_parallel: int | None) -> None:
    constraints = Constraints(n_parallel=n_parallel)
    try:
        less = plan_memory(model, Machine(4, min(a, b)), constraints)
    except NotEnoughMemory:
        return
    assert plan_memory(model, Machine(4, max(a, b)), constraints).n_ctx >= less.n_ctx


@settings(deadline=None, max_examples=100)
@given(shapes(), EXTRA, EXTRA, st.sampled_from([None, 1, 4]))
def test_more_gpu_memory_never_shortens_the_window_of_a_model_that_is_all_on_the_gpu(
    model: ModelShape, a: int, b: int, n_parallel: int | None
) -> None:
    def on(extra_bytes: int) -> MemoryPlan:
        free_bytes = model.weights_bytes + model.output_bytes + extra_bytes
        machine = Machine(4, 512 * GIB, (Device("card", free_bytes, free_bytes),))
        return plan_memory(model, machine, Constraints(n_parallel=n_parallel))

    less, more = on(min(a, b)), on(max(a, b))
    assume(less.n_gpu_layers == -1 and not less.n_cpu_moe)
    assert more.n_gpu_layers == -1
    assert more.n_ctx >= less.n_ctx


@settings(deadline=None, max_examples=100)
@given(shapes(), machines())
def test_growing_takes_nothing_from_anything_else(model: ModelShape, machine: Machine) -> None:
    try:
        plain = plan_memory(model, machine, Constraints(shares_memory=True))
    except NotEnoughMemory:
        return
    plan = plan_memory(model, machine, Constraints())
    assert plan.n_ctx >= plain.n_ctx
    kept = ("n_parallel", "n_gpu_layers", "n_cpu_moe", "type_k", "type_v", "n_batch", "kv_unified")
    assert [getattr(plan, name) for name in kept] == [getattr(plain, name) for name in kept]
