"""Tests of which models fit in memory together, on machines that are numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import shapes
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.machine import Device, Machine
from worker_gguf.errors import NotEnoughMemory
from worker_gguf.fleet.room import Footprint, Need, Room, footprint_of, least, need_of, without
from worker_gguf.gguf import read_header
from worker_gguf.plan import GPU_CONTEXT_BYTES, plan_memory
from worker_gguf.plan.planning import plan_for
from worker_gguf.plan.usage import room_on
from worker_gguf.settings import Settings

GIB = 1 << 30
HEADER = read_header(MODEL_PATH)
RESERVE = 512 << 20


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
