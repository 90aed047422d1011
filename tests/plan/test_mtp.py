"""Tests of the plan for a model with an MTP layer."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests import shapes
from tests.plan.test_plan import CPU, GIB, gpus
from worker_gguf.engine.machine import Machine
from worker_gguf.errors import NotEnoughMemory
from worker_gguf.gguf import ModelHeader, read_header
from worker_gguf.plan import measure, smaller_plan
from worker_gguf.plan.layout import Layout
from worker_gguf.plan.planning import constraints_of, plan_for, shape_of, wants_mtp
from worker_gguf.settings import Settings

CARD = gpus(141)
LAYOUT = Layout(8192, 4, False, 2048, 512, n_gpu_layers=-1)


@pytest.fixture
def glm(tmp_path: Path) -> ModelHeader:
    return read_header(shapes.write(shapes.SHAPES["GLM-4.5-Air"], tmp_path / "glm.gguf"))


def layer_bytes(header: ModelHeader) -> int:
    return sum(tensor.size_bytes for tensor in header.tensors if tensor.name.startswith("blk.46."))


def test_a_layer_that_is_not_loaded_takes_no_memory(glm: ModelHeader) -> None:
    assert shape_of(glm).weights_bytes == glm.weights_bytes - layer_bytes(glm)
    assert shape_of(glm, has_mtp=True).weights_bytes == glm.weights_bytes
    assert shape_of(glm, has_mtp=True).without_mtp().layers == shape_of(glm).layers
    assert shape_of(glm).without_mtp() == shape_of(glm)


def test_the_layer_its_memory_and_its_context_are_on_the_gpu_of_the_output(glm: ModelHeader) -> None:
    machine = gpus(100, 100)
    layout = replace(LAYOUT, tensor_split=(1.0, 1.0))
    without, with_it = measure(shape_of(glm), machine, layout), measure(shape_of(glm, has_mtp=True), machine, layout)
    assert with_it[0] == without[0]
    assert with_it[1].weights_bytes - without[1].weights_bytes == layer_bytes(glm)
    assert with_it[1].kv_bytes - without[1].kv_bytes == 4 * 8192 * 8 * 128 * 2 * 2
    assert with_it[1].compute_bytes > 1.5 * without[1].compute_bytes
    # Hidden rows: of a batch, twice of a part of one, and of waiting tokens.
    rows = 4 * 4096 * (2048 + 2 * 512 + 4 * 65) + 4 * 4 * 151_552
    assert with_it[2].other_bytes - without[2].other_bytes == rows


def test_in_main_memory_the_layer_takes_main_memory(glm: ModelHeader) -> None:
    layout = replace(LAYOUT, n_gpu_layers=0)
    (without,), (with_it,) = (measure(shape_of(glm, has_mtp=has), Machine(2, 1 << 40), layout) for has in (False, True))
    assert with_it.used_bytes - without.used_bytes > layer_bytes(glm)


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [({"SPECULATION": "mtp"}, True), ({}, False), ({"SPECULATION": "off"}, False)],
)
def test_the_layer_guesses_if_it_is_asked_for(glm: ModelHeader, environ: dict[str, str], wanted: bool) -> None:
    assert wants_mtp(glm, Settings.load(environ)) is wanted


def test_the_plan_says_what_the_layer_takes(glm: ModelHeader) -> None:
    plan, without = (plan_for(glm, CARD, Settings(speculation=each)) for each in ("mtp", "auto"))
    assert (plan.has_mtp, without.has_mtp, without.mtp_bytes) == (True, False, 0)
    if (plan.n_ctx, plan.n_parallel) == (without.n_ctx, without.n_parallel):
        used = [sum(use.used_bytes for use in each.devices) for each in (plan, without)]
        assert plan.mtp_bytes == used[0] - used[1]
    assert plan.mtp_bytes > layer_bytes(glm)


def test_a_smaller_plan_keeps_the_layer(glm: ModelHeader) -> None:
    settings = Settings(speculation="mtp")
    plan = plan_for(glm, CARD, settings)
    shape = shape_of(glm, has_mtp=plan.has_mtp)
    smaller = smaller_plan(plan, "context", shape, CARD, constraints_of(settings))
    assert smaller is not None
    assert smaller.has_mtp
    assert smaller.mtp_bytes < plan.mtp_bytes


def test_a_model_that_fits_only_without_its_layer_goes_without(glm: ModelHeader) -> None:
    settings = Settings(n_ctx=4096, n_parallel=1, speculation="mtp")
    free = next(gib for gib in range(100, 130) if fits(glm, replace(CPU, free_bytes=gib * GIB), settings))
    assert not plan_for(glm, replace(CPU, free_bytes=free * GIB), settings).has_mtp
    assert plan_for(glm, replace(CPU, free_bytes=(free + 4) * GIB), settings).has_mtp


def fits(header: ModelHeader, machine: Machine, settings: Settings) -> bool:
    try:
        plan_for(header, machine, settings)
    except NotEnoughMemory:
        return False
    return True


def test_with_so_many_requests_that_none_is_guessed_for_the_layer_is_left_out(glm: ModelHeader) -> None:
    machine = Machine(2, 1 << 40)
    assert plan_for(glm, machine, Settings(n_parallel=32, n_ctx=4096, speculation="mtp")).has_mtp
    assert not plan_for(glm, machine, Settings(n_parallel=64, n_ctx=4096, speculation="mtp")).has_mtp
