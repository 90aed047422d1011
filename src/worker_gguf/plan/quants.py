"""Chooses the quant of a repository that fits this machine, from file sizes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker_gguf.engine.machine import Machine
from worker_gguf.plan.usage import GPU_CONTEXT_BYTES, GPU_WORKSPACE_BYTES, RESERVE_CPU_BYTES, room_on

__all__ = ["preference"]

OVERHEAD = 0.15
"""Estimated KV cache and compute buffers of a useful context, as a share of the weights. The header is not read yet."""


def preference(sizes: Mapping[str, int], order: Sequence[str], machine: Machine) -> tuple[str, ...]:
    """Order quants (`sizes` by label, in bytes) for `store.select.by_labels`.

    First come the quants that fit on the GPUs, in the order of `order`. Then come those that fit in main memory and
    GPUs together, in the same order, or the smallest first if there is a GPU. The rest come last, the smallest first.
    Labels that are not in `order` come last in their group.
    """
    main = max(0, machine.free_bytes - RESERVE_CPU_BYTES)
    process = GPU_CONTEXT_BYTES + GPU_WORKSPACE_BYTES
    gpus = sum(max(0, room_on(gpu) - process) for gpu in machine.gpus)
    rank = {label: index for index, label in enumerate(order)}

    def key(label: str) -> tuple[int, int, int]:
        needed = round(sizes[label] * (1 + OVERHEAD))
        position = rank.get(label, len(rank))
        if machine.gpus and needed <= gpus:
            return (0, position, sizes[label])
        if needed <= gpus + main:
            # If the model does not fit on the GPU, a smaller quant puts more of its layers there.
            return (1, 0, sizes[label]) if machine.gpus else (1, position, sizes[label])
        return (2, 0, sizes[label])

    return tuple(sorted(sizes, key=key))
