"""Tests of the plan of a projector: on the GPU, in main memory, or left out, with the model in what it leaves free."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.machine import Device, Machine
from worker_gguf.errors import NotEnoughMemory, SettingsError
from worker_gguf.gguf import read_header
from worker_gguf.gguf.projector import ProjectorShape
from worker_gguf.plan import MemoryPlan, ProjectorWanted, smaller_plan
from worker_gguf.plan.planning import constraints_of, plan_for, shape_of
from worker_gguf.plan.projector import ROWS_BYTES
from worker_gguf.settings import Settings

GIB = 1 << 30
SHAPE = ProjectorShape(weights_bytes=2 * GIB, n_patches=576, n_embd=1024, n_ff=4096)
HEADER = read_header(Path(MODEL_PATH))


def planned(
    machine: Machine, *, is_required: bool = False, shape: ProjectorShape = SHAPE, **settings: object
) -> MemoryPlan:
    values = Settings(**{"n_ctx": 512, **settings})  # type: ignore[arg-type]
    return plan_for(HEADER, machine, values, projector=ProjectorWanted(shape, is_required))


def card(free: int) -> Device:
    return Device("card", free, 24 * GIB)


def test_it_goes_to_the_gpu_with_the_most_free_memory() -> None:
    plan = planned(Machine(8, 64 * GIB, (card(8 * GIB), card(20 * GIB))))
    assert plan.projector is not None
    assert plan.projector.gpu == 1
    assert plan.projector.bytes_on(0) == 0
    assert plan.projector.bytes_on(1) > SHAPE.weights_bytes
    assert plan.projector.bytes_on(None) == ROWS_BYTES
    assert plan.blind == ""


def test_it_goes_to_main_memory_where_the_model_would_not_fit_beside_it() -> None:
    machine = Machine(8, 64 * GIB, (card(3 * GIB),))
    plan = planned(machine, n_gpu_layers=-1)
    assert plan.projector is not None
    assert plan.projector.gpu is None
    assert plan.projector.bytes_on(0) == 0


def test_it_goes_to_main_memory_where_no_gpu_has_room_for_it() -> None:
    plan = planned(Machine(8, 64 * GIB, (card(2 * GIB), card(GIB))))
    assert plan.projector is not None
    assert plan.projector.gpu is None
    assert plan.n_gpu_layers == -1


@pytest.mark.parametrize(("n_gpu_layers", "gpus"), [(None, ()), (0, (card(20 * GIB),))])
def test_it_goes_to_main_memory_where_no_gpu_is_used(n_gpu_layers: int | None, gpus: tuple[Device, ...]) -> None:
    plan = planned(Machine(8, 64 * GIB, gpus), n_gpu_layers=n_gpu_layers)
    assert plan.projector is not None
    assert plan.projector.gpu is None


def test_it_is_left_out_with_a_reason_where_it_does_not_fit_unless_it_is_required() -> None:
    machine = Machine(2, 2 * GIB)
    plan = planned(machine)
    assert plan.projector is None
    assert "does not fit" in plan.blind
    assert plan.n_ctx == planned(Machine(2, 64 * GIB)).n_ctx
    with pytest.raises(NotEnoughMemory):
        planned(machine, is_required=True)


def test_a_model_that_pools_has_none() -> None:
    plan = planned(Machine(8, 64 * GIB), pooling="mean")
    assert plan.projector is None
    assert "texts alone" in plan.blind
    with pytest.raises(SettingsError, match="unset one of the two"):
        planned(Machine(8, 64 * GIB), is_required=True, pooling="mean")


def test_the_window_grows_only_into_what_it_leaves_free() -> None:
    free, settings = 6 * GIB, Settings()
    alone = plan_for(HEADER, Machine(2, free), settings)
    beside = plan_for(HEADER, Machine(2, free), settings, projector=ProjectorWanted(SHAPE, True))
    assert beside.cache_ram < alone.cache_ram


def test_a_step_holds_the_rows_that_are_computed_together() -> None:
    together = replace(SHAPE, most_together=1120)
    machine = Machine(8, 64 * GIB)
    plan = planned(machine, shape=together)
    assert plan.n_ubatch == 1120
    assert plan.n_batch >= 1120
    assert "computed together" in plan.reasons["n_ubatch"]
    assert planned(machine, shape=together, n_ubatch=256).n_ubatch == 256
    assert planned(machine, shape=replace(SHAPE, most_together=256)).n_ubatch == 512


def test_a_load_that_runs_out_of_memory_moves_it_to_main_memory_first() -> None:
    machine = Machine(8, 64 * GIB, (card(20 * GIB),))
    plan = planned(machine)
    constraints = constraints_of(Settings(n_ctx=512))
    smaller = smaller_plan(plan, "load", shape_of(HEADER), machine, constraints)
    assert smaller is not None
    assert smaller.projector is not None
    assert smaller.projector.gpu is None
    assert smaller.n_gpu_layers == plan.n_gpu_layers
    assert "main memory instead of a GPU" in smaller.degraded[-1]
    smallest = smaller_plan(smaller, "load", shape_of(HEADER), machine, constraints)
    assert smallest is not None
    assert smallest.projector == smaller.projector
    assert smallest.n_gpu_layers != plan.n_gpu_layers
