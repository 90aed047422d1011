"""Tests of what the parts count, without a GPU."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from msgspec import to_builtins

from bench.gpu_check.job import MIB, Job, within
from bench.gpu_check.parts import speed
from bench.gpu_check.parts.plan import _planned_mib
from bench.gpu_check.profile import CARD, CPU
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.machine import Device, Machine
from worker_gguf.fleet.room import footprint_of
from worker_gguf.gguf import read_header
from worker_gguf.plan.planning import plan_for
from worker_gguf.settings import Settings


@pytest.mark.parametrize("n_gpus", [1, 2])
def test_the_planned_memory_of_a_card_is_what_the_fleet_counts_for_the_model(n_gpus: int) -> None:
    gpus = tuple(Device(f"GPU {n}", 24 << 30, 24 << 30) for n in range(n_gpus))
    machine, settings = Machine(8, 32 << 30, gpus), Settings(model="embedded")
    plan = plan_for(read_header(MODEL_PATH), machine, settings)
    footprint = footprint_of(plan, machine, settings)
    devices = to_builtins(plan)["devices"]
    assert all(footprint.gpus)
    assert _planned_mib(devices, on_card=True) == pytest.approx(sum(footprint.gpus) / MIB)
    assert _planned_mib(devices, on_card=False) == pytest.approx(footprint.main / MIB - plan.cache_ram)


@pytest.mark.parametrize(
    ("planned_mib", "used_mib", "holds"),
    [
        (3394, 3468, True),  # an H200 on 2026-11-27, with the CUDA context: 74 MiB
        (2882, 3468, False),  # without it
        (12_500, 13_000, True),  # 4 %
        (12_000, 13_000, False),
        (620, 512, False),
    ],
)
def test_the_plan_may_be_wrong_by_5_percent_or_100_mib(planned_mib: float, used_mib: float, holds: bool) -> None:
    assert within(planned_mib, used_mib) is holds


def test_llama_server_gets_all_layers_on_a_card_and_the_libraries_of_the_bundle_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/bundle/lib")
    command = speed._peer("/peer with space/llama-server", CARD)
    filled = command.format(model="m.gguf", port=1, n_parallel=8, n_ctx_total=4096)
    assert filled == (
        "env LD_LIBRARY_PATH='/bundle/lib:/peer with space' '/peer with space/llama-server' -m m.gguf "
        "--host 127.0.0.1 --port 1 -np 8 -c 4096 -ngl 999"
    )
    assert speed._peer("s", CPU).endswith(" -ngl 0 -t 1")


def test_every_concurrency_has_its_waves() -> None:
    assert len(CARD.concurrency) == len(CARD.waves)
    assert len(CPU.concurrency) == len(CPU.waves)
    assert CARD.concurrency == (1, 8, 32, 64)


def test_a_job_travels_as_text() -> None:
    job = Job("plan", True, {"dense": "/m/1b.gguf"}, "/work", 30.0, "/peer/llama-server")
    assert Job.read(json.dumps(asdict(job))) == job
