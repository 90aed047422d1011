"""Tests of the memory plan of a model that pools."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests import shapes, tiny_models
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.machine import Device, Machine
from worker_gguf.errors import ModelInvalid, SettingsError
from worker_gguf.gguf import ModelHeader, read_header
from worker_gguf.plan import MemoryPlan, smaller_plan
from worker_gguf.plan.planning import constraints_of, plan_for, shape_of
from worker_gguf.settings import Settings

GIB = 1 << 30
CPU = Machine(2, 16 * GIB)
GPU = Machine(8, 64 * GIB, (Device("card", 24 * GIB, 24 * GIB),))


@pytest.fixture
def encoder(tmp_path: Path) -> ModelHeader:
    """An encoder with a table of 512 positions."""
    return read_header(tiny_models.write_encoder(tmp_path / "encoder.gguf"))


@pytest.fixture
def long_encoder(encoder: ModelHeader) -> ModelHeader:
    """An encoder for 8192 tokens with a vocabulary of 250k, as multilingual ones have."""
    tensors = tuple(tensor for tensor in encoder.tensors if tensor.name != "position_embd.weight")
    return replace(encoder, tensors=tensors, n_ctx_train=8192, n_vocab=250_002)


@pytest.fixture
def embedder(tmp_path: Path) -> ModelHeader:
    """A decoder whose file says that it takes the last row."""
    shape = replace_more(shapes.SHAPES["Qwen3-4B"], pooling_type=3)
    return read_header(shapes.write(shape, tmp_path / "embedder.gguf"))


def replace_more(shape: shapes.Shape, **more: shapes.Value) -> shapes.Shape:
    values = {name: getattr(shape, name) for name in shape.__dataclass_fields__}
    return shapes.Shape(**{**values, "more": {**shape.more, **more}})


def of_main(plan: MemoryPlan) -> int:
    return plan.devices[-1].used_bytes


def test_an_encoder_has_no_kv_memory_and_takes_inputs_of_its_training_length(encoder: ModelHeader) -> None:
    plan = plan_for(encoder, CPU, Settings())
    assert (plan.n_ctx, plan.n_cells, plan.kv_bytes, plan.cache_ram) == (512, 512, 0, 0)
    assert (plan.n_batch, plan.n_ubatch, plan.n_parallel, plan.flash_attn) == (384, 384, 64, True)
    assert plan.pools is not None
    assert plan.weighed.startswith("512 tokens for the longest input (the training length of the model): ")


def test_beside_a_gpu_a_step_has_more_inputs(encoder: ModelHeader) -> None:
    plan = plan_for(encoder, GPU, Settings())
    assert (plan.n_batch, plan.n_parallel, plan.n_cells, plan.n_gpu_layers) == (2048, 128, 2048, -1)


def test_settings_are_kept(encoder: ModelHeader) -> None:
    plan = plan_for(encoder, CPU, Settings(n_ctx=100, n_batch=64, n_parallel=8, flash_attn="off"))
    assert (plan.n_ctx, plan.n_batch, plan.n_parallel, plan.flash_attn) == (100, 64, 8, False)
    assert {plan.reasons[name] for name in ("n_ctx", "n_batch", "n_parallel", "flash_attn")} == {"set"}


def test_a_table_of_positions_limits_what_is_set(encoder: ModelHeader) -> None:
    plan = plan_for(encoder, CPU, Settings(n_ctx=4096))
    assert (plan.n_ctx, plan.reasons["n_ctx"]) == (512, "set to 4096, but the model has no more positions")


def test_the_rows_of_the_longest_input_are_planned(long_encoder: ModelHeader) -> None:
    plan = plan_for(long_encoder, CPU, Settings())
    assert plan.n_ctx == 8192
    assert of_main(plan) > 8192 * 250_002 * 4
    assert plan_for(long_encoder, replace(CPU, free_bytes=6 * GIB), Settings()).n_ctx < 8192


def test_where_models_share_the_memory_the_longest_input_takes_at_most_2_gib(long_encoder: ModelHeader) -> None:
    plan = plan_for(long_encoder, CPU, Settings(), shares_memory=True)
    assert plan.n_ctx == 2048
    assert plan.reasons["n_ctx"] == "the default where several models share the memory"


def test_a_decoder_has_room_for_one_input_in_parts_beside_a_step_of_others(embedder: ModelHeader) -> None:
    plan = plan_for(embedder, CPU, Settings(n_ctx=4096))
    assert plan.n_cells == 4096 + plan.n_batch
    assert plan.kv_bytes > 0
    assert plan.n_batch == 256
    assert plan_for(embedder, CPU, Settings(n_ctx=4096, pooling="none")).pools is None


def test_a_decoder_that_pools_all_tokens_computes_an_input_at_once(embedder: ModelHeader) -> None:
    plan = plan_for(embedder, CPU, Settings(n_ctx=4096, pooling="mean"))
    assert plan.n_cells == 4096
    assert plan.n_rows == 4096
    assert of_main(plan) > of_main(plan_for(embedder, CPU, Settings(n_ctx=4096)))


def test_a_smaller_plan_shortens_the_longest_input(long_encoder: ModelHeader) -> None:
    settings = Settings()
    plan = plan_for(long_encoder, CPU, settings)
    constraints = constraints_of(settings, pools=plan.pools)
    smaller = smaller_plan(plan, "context", shape_of(long_encoder), CPU, constraints)
    assert smaller is not None
    assert (smaller.n_ctx, smaller.n_parallel, smaller.pools) == (4096, plan.n_parallel, plan.pools)


def test_a_draft_model_cannot_guess_for_a_model_that_pools(encoder: ModelHeader) -> None:
    with pytest.raises(SettingsError, match="DRAFT_MODEL guesses tokens"):
        plan_for(encoder, CPU, Settings(), draft=read_header(MODEL_PATH))


def test_a_ranker_without_a_head_gets_no_plan(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="has no class head"):
        plan_for(read_header(MODEL_PATH), CPU, Settings(pooling="rank"))
