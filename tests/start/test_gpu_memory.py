"""Tests of the comparison of planned and used GPU memory."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.plan.test_plan import GIB, SMALL, gpus
from tests.start.test_open_model import opened
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.machine import Machine
from worker_gguf.plan import GPU_CONTEXT_BYTES, Constraints, MemoryPlan, plan_memory, plan_with_draft
from worker_gguf.settings import Settings
from worker_gguf.start.gpu_memory import compare_gpu_memory

MIB = 1 << 20


def read(*gib: float) -> Machine:
    """A machine as an engine process reads it, with its context open on each GPU."""
    machine = gpus(*gib)
    return replace(machine, gpus=tuple(replace(gpu, has_context=True) for gpu in machine.gpus))


def plan_on(machine: Machine) -> MemoryPlan:
    return plan_memory(SMALL, machine, Constraints(n_ctx=4096, n_parallel=1))


def test_what_the_load_took_is_compared_with_the_plan(caplog: pytest.LogCaptureFixture) -> None:
    machine = read(24)
    plan = plan_on(machine)
    taken = plan.devices[0].used_bytes - GPU_CONTEXT_BYTES + 30 * MIB
    with caplog.at_level("INFO"):
        (gpu,) = compare_gpu_memory(plan, machine, (machine.gpus[0].free_bytes - taken,), Settings())
    assert gpu.planned_bytes == plan.devices[0].used_bytes
    assert gpu.used_bytes == gpu.planned_bytes + 30 * MIB
    assert gpu.card_used_bytes == taken
    (line,) = caplog.records
    assert (line.levelname, line.getMessage()) == ("INFO", "GPU memory")
    assert vars(line)["used_mib"] - vars(line)["planned_mib"] in (30, 31)


def test_the_memory_of_a_draft_model_is_part_of_the_plan() -> None:
    machine = read(24)
    plan = plan_with_draft(SMALL, SMALL, machine, Constraints(n_ctx=4096, n_parallel=1))
    assert plan.draft is not None
    (gpu,) = compare_gpu_memory(plan, machine, (machine.gpus[0].free_bytes - GIB,), Settings())
    assert gpu.planned_bytes == plan.devices[0].used_bytes + plan.draft.bytes_on(0) > 2 * SMALL.weights_bytes - GIB // 2


def test_more_than_the_plan_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    machine = read(24)
    plan = plan_on(machine)
    taken = plan.devices[0].used_bytes - GPU_CONTEXT_BYTES + GIB // 2
    (gpu,) = compare_gpu_memory(plan, machine, (machine.gpus[0].free_bytes - taken,), Settings())
    assert gpu.is_over
    (line,) = caplog.records
    assert (line.levelname, line.getMessage()) == ("WARNING", "more GPU memory in use than planned")


def test_only_the_gpus_of_the_plan_are_compared() -> None:
    machine = read(24, 12)
    settings = Settings(split_mode="none", main_gpu=1)
    plan = plan_on(replace(machine, gpus=machine.gpus[1:]))
    (gpu,) = compare_gpu_memory(plan, machine, (24 * GIB, 10 * GIB), settings)
    assert (gpu.name, gpu.card_used_bytes) == ("card 1", 2 * GIB)
    none = plan_memory(SMALL, machine, Constraints(n_gpu_layers=0))
    assert compare_gpu_memory(none, machine, (24 * GIB, 10 * GIB), Settings()) == ()


def test_a_processor_has_none() -> None:
    loaded = opened(MODEL_PATH, n_gpu_layers=0)
    loaded.stop()
    assert loaded.describe()["gpu_memory"] == []


@pytest.mark.gpu
def test_on_a_gpu_the_embedded_model_uses_what_is_planned() -> None:
    loaded = opened(MODEL_PATH, n_gpu_layers=-1)
    loaded.stop()
    for gpu in loaded.gpu_memory:
        assert gpu.used_bytes == pytest.approx(gpu.planned_bytes, rel=0.05, abs=100 * MIB)
