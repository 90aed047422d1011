"""Tests of which models fit in memory together, on machines that are numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests import shapes
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.machine import Device, Machine
from worker_gguf.errors import NotEnoughMemory
from worker_gguf.fleet.room import Footprint, Need, Room, footprint_of, least, need_of, without
from worker_gguf.gguf import read_header
from worker_gguf.gguf.projector import ProjectorShape
from worker_gguf.plan import GPU_CONTEXT_BYTES, ProjectorWanted, plan_memory
from worker_gguf.plan.planning import plan_for
from worker_gguf.plan.projector import ROWS_BYTES
from worker_gguf.plan.usage import room_on
from worker_gguf.settings import Settings

GIB = 1 << 30
HEADER = read_header(MODEL_PATH)
RESERVE = 512 << 20
PROJECTOR = ProjectorShape(weights_bytes=2 * GIB, n_patches=576, n_embd=1024, n_ff=4096)


def need(**changes: object) -> Need:
    return need_of(HEADER, Settings(**changes))  # type: ignore[arg-type]


def test_a_model_fits_if_its_plan_next_to_others_is_its_plan_alone() -> None:
    room = Room(Machine(2, 4 * GIB), {"large": Footprint((), 3 * GIB), "small": Footprint((), GIB)})
    assert room.fits("x", need(), frozenset())
    assert room.fits("x", need(), frozenset({"large"}))
    assert not room.fits("x", need(), frozenset({"large", "small"}))


def test_a_degraded_plan_is_no_fit_while_something_can_be_unloaded() -> None:
    wished = plan_for(HEADER, Machine(2, 4 * GIB), Settings())
    tight = RESERVE + wished.weights_bytes + wished.kv_bytes // 2 + wished.compute_bytes + (1 << 20)
    assert plan_for(HEADER, Machine(2, tight), Settings()).n_parallel < wished.n_parallel
    room = Room(Machine(2, 4 * GIB), {"other": Footprint((), 4 * GIB - tight)})
    assert not room.fits("x", need(), frozenset({"other"}))


def test_a_model_that_only_fits_degraded_fits_so_where_it_is_alone() -> None:
    wished = plan_for(HEADER, Machine(2, 4 * GIB), Settings())
    tight = RESERVE + wished.weights_bytes + wished.kv_bytes // 2 + wished.compute_bytes + (1 << 20)
    assert Room(Machine(2, tight)).fits("x", need(), frozenset())


def test_the_error_of_a_model_that_does_not_fit_proposes_one_that_does() -> None:
    with pytest.raises(NotEnoughMemory, match="would fit"):
        Room(Machine(2, RESERVE + (16 << 20))).fits("x", need(n_ctx=100_000), frozenset())


def test_memory_that_others_took_since_is_seen_and_mapped_weights_are_not_counted_as_free() -> None:
    first = Machine(2, 8 * GIB)
    taken = {"a": Footprint((), 3 * GIB)}
    assert Room.of(first, Machine(2, 5 * GIB), taken).empty.free_bytes == 8 * GIB
    assert Room.of(first, Machine(2, 4 * GIB), taken).empty.free_bytes == 7 * GIB
    assert Room.of(first, Machine(2, 7 * GIB), taken).empty.free_bytes == 8 * GIB
    assert Room.of(first, Machine(2, 5 * GIB), taken).left_by("a").free_bytes == 5 * GIB


def test_a_footprint_lies_on_the_gpus_that_the_settings_leave_in_use() -> None:
    gpus = (Device("one", 8 * GIB, 8 * GIB), Device("two", 8 * GIB, 8 * GIB))
    machine = Machine(2, 8 * GIB, gpus)
    settings = Settings(split_mode="none", main_gpu=1)
    plan = plan_for(HEADER, machine, settings)
    footprint = footprint_of(plan, machine, settings)
    assert footprint.gpus[0] == GPU_CONTEXT_BYTES
    assert footprint.gpus[1] == plan.devices[0].used_bytes
    both = footprint_of(plan_for(HEADER, machine, Settings()), machine, Settings())
    assert all(taken > 0 for taken in both.gpus)
    left = without(machine, [footprint])
    assert [gpu.free_bytes for gpu in left.gpus] == [8 * GIB - taken for taken in footprint.gpus]
    assert least(machine, left) == left


def test_a_model_for_another_gpu_takes_no_room() -> None:
    gpus = (Device("one", 8 * GIB, 8 * GIB), Device("two", 8 * GIB, 8 * GIB))
    room = Room(Machine(2, 8 * GIB, gpus), {"other": Footprint((8 * GIB, 0), 0)})
    on_first, on_second = (need(split_mode="none", main_gpu=n) for n in (0, 1))
    assert not room.fits("first", on_first, frozenset({"other"}))
    assert room.fits("second", on_second, frozenset({"other"}))


def test_the_context_of_each_process_is_counted_once_where_models_share_a_card() -> None:
    """Both numbers of free memory are without the context of the process that reads them."""
    n_context, n_model = GPU_CONTEXT_BYTES, 3 * GIB

    def card(free_bytes: int) -> Machine:
        return Machine(2, 64 * GIB, (Device("card", free_bytes, 24 * GIB, has_context=True),))

    first, second = card(24 * GIB - n_context), card(24 * GIB - 2 * n_context - n_model)
    room = Room.of(first, second, {"a": Footprint((n_model + n_context,), 0)})
    assert room.empty == first
    assert room.left_by("a") == second
    assert room_on(room.left_by("a").gpus[0]) == 24 * GIB - n_context - n_model - RESERVE


def test_windows_do_not_grow_where_models_share_the_memory(tmp_path: Path) -> None:
    header = read_header(shapes.write(shapes.SHAPES["LFM2-1.2B"], tmp_path / "model.gguf"))
    machine = Machine(2, 64 * GIB, (Device("card", 24 * GIB, 24 * GIB),))
    need = need_of(header, Settings())
    alone = plan_for(header, machine, Settings())
    shared = plan_memory(need.shape, machine, need.constraints)
    assert (alone.n_ctx, shared.n_ctx) == (128_000, 8192)
    footprint = footprint_of(shared, machine, Settings())
    assert Room(machine, {"other": footprint}).fits("x", need, frozenset({"other"}))


def seeing(*, is_required: bool = False, **changes: object) -> Need:
    return need_of(HEADER, Settings(**{"n_ctx": 512, **changes}), ProjectorWanted(PROJECTOR, is_required))  # type: ignore[arg-type]


def test_a_projector_counts_for_the_room_of_its_model_whether_it_is_required_or_not() -> None:
    room = Room(Machine(2, 6 * GIB), {"other": Footprint((), 4 * GIB)})
    assert room.fits("blind", need(n_ctx=512), frozenset({"other"}))
    for name, is_required in ("found", False), ("named", True):
        assert room.fits(name, seeing(is_required=is_required), frozenset())
        assert not room.fits(name, seeing(is_required=is_required), frozenset({"other"}))


def test_a_projector_that_does_not_even_fit_alone_is_left_out_unless_it_is_required() -> None:
    room = Room(Machine(2, 2 * GIB), {"other": Footprint((), GIB)})
    plan = seeing().plan(room.empty)
    assert plan.projector is None
    assert "does not fit" in plan.blind
    assert room.fits("found", seeing(), frozenset({"other"}))
    with pytest.raises(NotEnoughMemory):
        room.fits("named", seeing(is_required=True), frozenset())


def test_a_projector_that_would_have_to_leave_its_gpu_is_no_fit_but_another_gpu_is_one() -> None:
    gpus = (Device("one", 8 * GIB, 8 * GIB), Device("two", 8 * GIB, 8 * GIB))
    both = Room(Machine(2, 64 * GIB, gpus), {"other": Footprint((4 * GIB, 0), 0)})
    alone, beside = (seeing().plan(machine).projector for machine in (both.empty, both.left_by({"other"})))
    assert (alone and alone.gpu, beside and beside.gpu) == (0, 1)
    assert both.fits("m", seeing(), frozenset({"other"}))
    full = Room(Machine(2, 64 * GIB, gpus[:1]), {"other": Footprint((6 * GIB,), 0)})
    beside = seeing().plan(full.left_by({"other"})).projector
    assert beside is not None
    assert beside.gpu is None
    assert not full.fits("m", seeing(), frozenset({"other"}))


def test_the_plan_for_the_room_is_that_of_a_start() -> None:
    gpus = (Device("one", 3 * GIB, 8 * GIB), Device("two", 8 * GIB, 8 * GIB))
    for machine in Machine(2, 64 * GIB, gpus), Machine(2, 64 * GIB, gpus[:1]), Machine(2, 6 * GIB), Machine(2, 2 * GIB):
        wanted = seeing()
        at_start = plan_for(HEADER, machine, Settings(n_ctx=512), shares_memory=True, projector=wanted.projector)
        assert wanted.plan(machine) == at_start


@pytest.mark.parametrize("n_gpu_layers", [None, 0])
def test_the_footprint_of_a_projector_lies_where_the_plan_has_it(n_gpu_layers: int | None) -> None:
    gpus = (Device("one", 8 * GIB, 8 * GIB), Device("two", 8 * GIB, 8 * GIB))
    machine = Machine(2, 8 * GIB, gpus)
    settings = Settings(split_mode="none", main_gpu=1, n_ctx=512, n_gpu_layers=n_gpu_layers, cache_ram=0)
    wanted = ProjectorWanted(PROJECTOR, is_required=False)
    plan = plan_for(HEADER, machine, settings, projector=wanted)
    blind = replace(plan, projector=None)
    assert plan.projector is not None
    footprint, without_it = (footprint_of(one, machine, settings) for one in (plan, blind))
    own = plan.projector.weights_bytes + plan.projector.compute_bytes
    added = tuple(a - b for a, b in zip(footprint.gpus, without_it.gpus, strict=True))
    assert added == ((0, own) if n_gpu_layers is None else (0, 0))
    assert footprint.main - without_it.main == ROWS_BYTES + (0 if n_gpu_layers is None else own)
