"""Tests of the memory of LoRA adapters: where it is planned, and that llama.cpp takes as much."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import llama_cpp
import pytest

from bench import adapters as writer
from bench import models
from bench.gguf_file import TensorType
from tests.llama.test_plan_true import LAYOUTS, MIB, context_params, log_lines, total
from worker_gguf.engine.machine import Device, Machine
from worker_gguf.engine.params import ModelParams
from worker_gguf.gguf import read_header
from worker_gguf.llama.adapters import Adapter
from worker_gguf.llama.model import Model
from worker_gguf.plan import DeviceUse, Layout, measure
from worker_gguf.plan.planning import shape_of, with_adapters

DENSE = models.Shape("dense", 2, 256, 512, 4, 2, 4096, 7, TensorType.Q8_0, TensorType.Q8_0)
EXPERTS = models.Shape("experts", 3, 256, 256, 4, 4, 512, 7, TensorType.Q8_0, TensorType.Q8_0, 4, 2)
ALL = f"{writer.MATRICES}|output\\.weight"
GPU = Device("GPU", 40 << 30, 40 << 30)


def uses(base: Path, adapter: Path, machine: Machine, layout: Layout) -> tuple[tuple[DeviceUse, ...], ...]:
    """Return the memory on each device without the adapter and with it."""
    header = read_header(base)
    both = (header, with_adapters(header, [read_header(adapter)]))
    return tuple(measure(shape_of(found), machine, layout) for found in both)


def bytes_of(adapter: Path, pattern: str) -> int:
    return sum(tensor.size_bytes for tensor in read_header(adapter).tensors if re.search(pattern, tensor.name))


@pytest.mark.parametrize("shape", [DENSE, EXPERTS], ids=lambda shape: shape.name)
@pytest.mark.parametrize("matrices", [writer.MATRICES, ALL], ids=["layers", "layers and output"])
def test_llama_cpp_takes_what_is_planned(shape: models.Shape, matrices: str, tmp_path: Path) -> None:
    base = models.ensure(shape, tmp_path)
    adapter = writer.write(tmp_path / "adapter.gguf", base, rank=16, matrices=matrices)
    model = Model(base, ModelParams())
    for name in ("one long", "parts", "many short", "no flash attention"):
        layout = LAYOUTS[name]
        with log_lines() as lines:
            context = llama_cpp.llama_init_from_model(model.pointer, context_params(layout))
            lines.clear()
            loaded = Adapter(model, "model", "adapter", adapter)
            taken = total(lines, r"LoRA buffer size = +([\d.]+)")
            lines.clear()
            array = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(loaded.pointer)
            assert llama_cpp.llama_set_adapters_lora(context, array, 1, (llama_cpp.ctypes.c_float * 1)(1.0)) == 0
            batch = llama_cpp.llama_batch_get_one((llama_cpp.llama_token * 1)(5), 1)
            assert llama_cpp.llama_decode(context, batch) == 0
            computed = total(lines, r"compute buffer size = +([\d.]+)")
            llama_cpp.llama_free(context)
        (before,), (after,) = uses(base, adapter, Machine(1, 1 << 40), layout)
        assert after.weights_bytes - before.weights_bytes == pytest.approx(taken, abs=0.02 * MIB)
        assert computed > 0
        assert after.compute_bytes >= computed - 2 * MIB
    model.close()


def test_an_adapter_lies_beside_the_matrices_that_it_changes(tmp_path: Path) -> None:
    base = models.ensure(EXPERTS, tmp_path)
    adapter = writer.write(tmp_path / "adapter.gguf", base, rank=16, matrices=f"{ALL}|token_embd\\.weight")
    layout = Layout(4096, 1, True, 512, 512, n_gpu_layers=3, n_cpu_moe=2)
    (gpu, main), (gpu_with, main_with) = uses(base, adapter, Machine(1, 1 << 40, (GPU,)), layout)
    # Layers 1 and 2 and the output are on the GPU, without the experts of layer 1.
    on_gpu = bytes_of(adapter, r"blk\.[12]\.attn|blk\.2\.ffn|^output")
    assert gpu_with.weights_bytes - gpu.weights_bytes == on_gpu
    assert main_with.weights_bytes - main.weights_bytes == bytes_of(adapter, "") - on_gpu


def test_vectors_that_llama_cpp_leaves_out_are_not_planned(tmp_path: Path) -> None:
    base = models.ensure(DENSE, tmp_path)
    plain, norms = (writer.write(tmp_path / f"{n}.gguf", base, norms=n) for n in (False, True))
    (_, with_norms), (_, without) = (uses(base, path, Machine(1, 1 << 40), LAYOUTS["parts"]) for path in (norms, plain))
    assert with_norms == without


def test_several_adapters_take_the_memory_of_all(tmp_path: Path) -> None:
    base = read_header(models.ensure(DENSE, tmp_path))
    adapter = read_header(writer.write(tmp_path / "adapter.gguf", tmp_path / f"dense-v{models.VERSION}.gguf"))
    planned = [shape_of(with_adapters(base, [adapter] * n)).weights_bytes for n in range(4)]
    assert {after - before for before, after in pairwise(planned)} == {adapter.weights_bytes}
