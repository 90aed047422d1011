"""Compares the plan with what cards had in use. Each case says where its figure comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench import gguf_file, models
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.machine import Device, Machine
from worker_gguf.gguf import read_header
from worker_gguf.plan import GPU_CONTEXT_BYTES, Constraints, plan_memory
from worker_gguf.plan.planning import shape_of
from worker_gguf.plan.usage import GPU_WORKSPACE_BYTES

MIB, GIB = 1 << 20, 1 << 30


def embedded(_folder: Path) -> Path:
    return MODEL_PATH


def bench_1b(folder: Path) -> Path:
    """The header of the benchmark's model, with a hole where its 0.95 GB of weights would be."""
    shape = models.SHAPES["1b"]
    tensors = list(models.tensors(shape))
    path = folder / "1b.gguf"
    header = gguf_file._header(models.metadata(shape), tensors)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(gguf_file._aligned(tensor.size_bytes) for tensor in tensors))
    return path


@dataclass(frozen=True)
class Measured:
    """`used_mib` is what nvidia-smi showed for the engine process, after the first token and before any request."""

    model: Callable[[Path], Path]
    gpu: Device
    constraints: Constraints
    used_mib: int
    source: str


H200 = Device("NVIDIA H200", 139 * GIB, 140 * GIB)
CHECK = (
    "NVIDIA H200, 2026-11-27: llama-cpp-python 0.3.36 for CUDA 13 and sm_90, without virtual memory management; "
    "nvidia-smi --query-compute-apps=pid,used_memory"
)
CASES = {
    "embedded": Measured(embedded, H200, Constraints(n_ctx=2048, n_parallel=8), 640, CHECK),
    "1b": Measured(bench_1b, H200, Constraints(n_ctx=8192, n_parallel=8), 3468, CHECK),
}


@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_within_5_percent_or_100_mib_of_what_the_card_showed(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    machine = Machine(16, 128 * GIB, (case.gpu,))
    card, _ = plan_memory(shape_of(read_header(case.model(tmp_path))), machine, case.constraints).devices
    assert card.used_bytes / MIB == pytest.approx(case.used_mib, rel=0.05, abs=100), case.source
    assert card.process_bytes == GPU_CONTEXT_BYTES + GPU_WORKSPACE_BYTES
    # The models differ by a factor of 80 in memory, and a constant part explains both within 20 MiB.
    assert card.used_bytes / MIB == pytest.approx(case.used_mib, abs=20), case.source
