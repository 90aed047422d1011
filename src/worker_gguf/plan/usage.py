"""The memory that a layout uses on each device: weights, KV cache, compute buffers, and what each process takes of a
GPU. Places layers as llama.cpp does.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.engine.machine import Device, Machine
from worker_gguf.engine.params import MTP_UNREAD
from worker_gguf.plan.layout import CELL_PAD, Layout
from worker_gguf.plan.shape import LayerShape, ModelShape

__all__ = ["DeviceUse", "even_split", "kv_bytes_by_layer", "measure", "room_on"]

GPU_CONTEXT_BYTES: Final = 512 << 20
"""The CUDA context that each process opens on each GPU.

Its size belongs to the card and the driver. 107 MiB on an RTX 4060 Ti and 555 MiB on an RTX PRO 6000 were reported in
https://github.com/ggml-org/llama.cpp/pull/23604, 330 MiB on a card of 24 GB in
https://github.com/unslothai/unsloth/pull/6718, and 612 MiB on a B200 in https://github.com/unslothai/unsloth/pull/8669.
An error in this number cancels out on the machine that loads the model, because a context that is already open is in
its free memory as well (`Device.has_context`).
"""
GPU_WORKSPACE_BYTES: Final = 88 << 20
"""What llama.cpp takes of each GPU beside its buffers: kernels, streams, pools, workspaces of cuBLAS.

With the context, 600 MiB: the mean of what an H200 had in use beyond the buffers of two very different models, 586 and
614 MiB (tests/plan/test_measured.py). So the measurements support no part that grows with the model.
"""
RESERVE_GPU_BYTES: Final = 512 << 20
"""Reserve on each GPU for everything that the plan does not count, such as pools that grow under load."""
RESERVE_CPU_BYTES: Final = 1 << 29
"""Reserve for Python, the HTTP stack and requests."""
PIPELINE_COPIES: Final = 4
"""Copies of a batch's inputs that llama.cpp keeps, so that several GPUs can work on different batches at once."""
MASK_BYTES: Final = 2  # f16 with flash attention; f32, twice as large, without


class DeviceUse(Struct, frozen=True):
    """The planned bytes of one device, and the bytes it has room for.

    `other_bytes` are outputs and the vocabulary. `process_bytes` are the context and the workspaces of the process on a
    GPU, whatever the model; it is 0 on a GPU without a layer, because it then keeps no layout from fitting.
    """

    name: str
    is_gpu: bool
    n_layers: int
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    other_bytes: int
    process_bytes: int
    room_bytes: int

    @property
    def used_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.other_bytes + self.process_bytes

    @property
    def fits(self) -> bool:
        return self.used_bytes <= self.room_bytes


class _Load(Struct):
    n_layers: int = 0
    weights: int = 0
    kv: float = 0.0
    has_output: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.n_layers and not self.has_output


def room_on(gpu: Device) -> int:
    """Return the bytes of a GPU for a model, with the context and the workspaces of its process."""
    held = GPU_CONTEXT_BYTES if gpu.has_context else 0
    return max(0, gpu.free_bytes + held - RESERVE_GPU_BYTES)


def measure(model: ModelShape, machine: Machine, layout: Layout) -> tuple[DeviceUse, ...]:
    """Return the use of each GPU and, as the last item, of main memory."""
    devices = _devices(model, len(machine.gpus), layout)
    loads = [_Load() for _ in range(len(machine.gpus) + 1)]
    main = loads[-1]
    main.weights += model.input_bytes
    for index, (layer, kv_bytes) in enumerate(zip(model.layers, kv_bytes_by_layer(model, layout), strict=True)):
        load = loads[devices[index]]
        load.n_layers += 1
        load.kv += kv_bytes
        load.weights += layer.weights_bytes
        (main if index < layout.n_cpu_moe else load).weights += layer.experts_bytes
    output = loads[devices[-1]]
    output.has_output = True
    if output is not main or not model.tied:
        output.weights += model.output_bytes
    on_gpu = output is not main
    mtp_compute, mtp_inputs, mtp_rows = _mtp(model, layout, on_gpu) if model.has_mtp else (0, 0, 0)
    uses = [
        DeviceUse(
            gpu.name,
            is_gpu=True,
            n_layers=load.n_layers,
            weights_bytes=load.weights,
            kv_bytes=round(load.kv),
            compute_bytes=_gpu_compute(model, layout, load, main, len(machine.gpus))
            + (mtp_compute if load is output else 0),
            other_bytes=0,
            process_bytes=0 if load.is_empty else GPU_CONTEXT_BYTES + GPU_WORKSPACE_BYTES,
            room_bytes=room_on(gpu),
        )
        for gpu, load in zip(machine.gpus, loads, strict=False)
    ]
    compute = _compute(model, layout, logits=not on_gpu)
    if on_gpu and not main.n_layers and not layout.n_cpu_moe:
        compute = _inputs(model, layout)
    main_use = DeviceUse(
        "main memory",
        is_gpu=False,
        n_layers=main.n_layers,
        weights_bytes=main.weights,
        kv_bytes=round(main.kv),
        compute_bytes=compute + mtp_inputs,
        other_bytes=_rows(model, layout) + model.vocabulary_bytes + mtp_rows,
        process_bytes=0,
        room_bytes=max(0, machine.free_bytes - RESERVE_CPU_BYTES),
    )
    return (*uses, main_use)


def _rows(model: ModelShape, layout: Layout) -> int:
    """Return the rows that a step may leave in main memory: logits, and for a model that pools also hidden rows."""
    return 4 * layout.n_rows * (model.n_vocab + (model.n_embd if layout.pools is not None else 0))


def _mtp(model: ModelShape, layout: Layout, on_gpu: bool) -> tuple[int, int, int]:
    """Return what the context of the MTP layer adds: a buffer on the output's GPU, a buffer in main memory, and rows.

    It has a row of logits for each sequence. Each context gives the hidden rows of a batch, this one also takes them,
    and others wait for it.
    """
    own = replace(layout, speculates=False, n_batch=max(layout.n_ubatch, layout.n_parallel))
    n_hidden = layout.n_batch + 2 * own.n_batch + layout.n_parallel * (MTP_UNREAD + 1)
    rows = 4 * (layout.n_parallel * model.n_vocab + n_hidden * model.n_embd)
    compute = _compute(model, own, logits=True)
    return (compute, _inputs(model, own), rows) if on_gpu else (0, compute, rows)


def kv_bytes_by_layer(model: ModelShape, layout: Layout) -> list[float]:
    """Return the KV cache of each layer, with the states of recurrent ones.

    With `swa_full`, a sliding window saves nothing.
    """
    return [
        layer.kv_bytes_per_token(layout.type_k, layout.type_v) * _cells_of(layer, layout) * layout.n_streams
        + layer.state_bytes * layout.n_parallel
        for layer in model.layers
    ]


def _cells_of(layer: LayerShape, layout: Layout) -> int:
    """Return the cells of a stream in one layer: all, or those of the windows of its sequences and of one batch.

    Source: llama_kv_cache_iswa in llama-kv-cache-iswa.cpp (llama-cpp-python 0.3.36).
    """
    if layout.swa_full or not layer.window:
        return layout.cells
    needed = layer.window * (layout.n_parallel if layout.kv_unified else 1) + layout.n_ubatch
    return min(layout.cells, -(-needed // CELL_PAD) * CELL_PAD)


def even_split(model: ModelShape, machine: Machine, layout: Layout) -> tuple[float, ...]:
    """Return the number of layers for each GPU that fills all about equally. llama.cpp takes the numbers as shares."""
    n_offloaded = _n_offloaded(model, layout)
    if len(machine.gpus) < 2 or not n_offloaded:
        return ()
    costs = [
        layer.weights_bytes + (0 if index < layout.n_cpu_moe else layer.experts_bytes) + kv_bytes
        for index, (layer, kv_bytes) in enumerate(zip(model.layers, kv_bytes_by_layer(model, layout), strict=True))
    ]
    costs = [*costs, float(model.output_bytes)][model.n_layers + 1 - n_offloaded :]
    fixed = _compute(model, layout, logits=True) + GPU_CONTEXT_BYTES + GPU_WORKSPACE_BYTES
    rooms = list(accumulate(max(1, room_on(gpu) - fixed) for gpu in machine.gpus))
    counts, done, total = [0] * len(rooms), 0.0, sum(costs) or 1.0
    for cost in costs:
        middle = (done + cost / 2) / total
        counts[min(bisect_right([room / rooms[-1] for room in rooms], middle), len(rooms) - 1)] += 1
        done += cost
    return tuple(float(count) for count in counts)


def _n_offloaded(model: ModelShape, layout: Layout) -> int:
    """Return the number of layers on GPUs. The output counts as one."""
    every = model.n_layers + 1
    return every if layout.n_gpu_layers < 0 else min(layout.n_gpu_layers, every)


def _devices(model: ModelShape, n_gpus: int, layout: Layout) -> list[int]:
    """Return the device of each layer and, as the last item, of the output. The number `n_gpus` means main memory.

    As in llama.cpp, the last layers go to the GPUs: each to the first GPU whose cumulative share is above the layer's
    position.
    """
    n_offloaded = _n_offloaded(model, layout) if n_gpus else 0
    first = model.n_layers + 1 - n_offloaded
    shares = [*layout.tensor_split, *[0.0] * n_gpus][:n_gpus]
    cumulated = list(accumulate(shares if any(shares) else [1.0] * n_gpus))
    bounds = [share / cumulated[-1] for share in cumulated]
    on_gpu = (min(bisect_right(bounds, at / n_offloaded), n_gpus - 1) for at in range(n_offloaded))
    return [*[n_gpus] * first, *on_gpu]


def _compute(model: ModelShape, layout: Layout, *, logits: bool) -> int:
    """Return the compute buffer of a device that has layers: the largest sum of live tensors during a full batch."""
    n_tokens = layout.n_tokens
    masks = _mask_cells(model, layout) * n_tokens * MASK_BYTES
    widest = 4 * n_tokens * model.computed_elements
    if not layout.flash_attn:
        masks *= 2
        scores = 4 * layout.cells * n_tokens * model.n_head
        widest = max(widest, scores + 4 * n_tokens * model.attended_elements)
    has_head = layout.pools is None or layout.pools.has_memory  # llama.cpp computes no logits in an encoder
    if logits and has_head:
        # What an adapter adds to the output exists beside it. In the layers, there is room for it.
        n_logits = min(layout.n_rows, n_tokens) * model.n_vocab * (2 if model.adapts_output else 1)
        widest = max(widest, 4 * n_logits + 4 * n_tokens * model.n_embd)
    return masks + widest


def _mask_cells(model: ModelShape, layout: Layout) -> int:
    """Return the cells for which a token has a mask. Layers with a sliding window have a mask of their own."""
    if not model.has_window:
        return layout.cells
    return layout.cells + min((_cells_of(layer, layout) for layer in model.layers), default=layout.cells)


def _gpu_compute(model: ModelShape, layout: Layout, load: _Load, main: _Load, n_gpus: int) -> int:
    if load.is_empty:
        return 0
    compute = _compute(model, layout, logits=load.has_output) + _f16_copies(model, layout)
    # llama.cpp computes long prompts on the GPU even with weights in main memory: it copies one tensor at a time there.
    if main.n_layers or layout.n_cpu_moe:
        return compute + model.largest_tensor_bytes
    return compute + ((PIPELINE_COPIES - 1) * _inputs(model, layout) if n_gpus > 1 else 0)


def _f16_copies(model: ModelShape, layout: Layout) -> int:
    """Return the buffer for the keys and values of one layer in f16, which flash attention on a GPU computes with.

    Source: ggml_cuda_flash_attn_ext_get_f16_extra_data in ggml-cuda/fattn-common.cuh (llama-cpp-python 0.3.36).
    """
    if not layout.flash_attn:
        return 0
    elements = max(
        (
            (layer.k_elements if layout.type_k != "f16" else 0) + (layer.v_elements if layout.type_v != "f16" else 0)
            for layer in model.layers
        ),
        default=0,
    )
    return 2 * elements * layout.cells * layout.n_streams


def _inputs(model: ModelShape, layout: Layout) -> int:
    """Return the buffers that main memory needs when all layers are on GPUs: embeddings and masks."""
    masks = _mask_cells(model, layout) * layout.n_tokens * MASK_BYTES
    return masks + 4 * layout.n_tokens * model.n_embd
