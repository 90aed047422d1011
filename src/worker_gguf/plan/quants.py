"""Chooses the quant of a repository that fits this machine, from file sizes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker_gguf.plan.usage import RESERVE_CPU_BYTES, RESERVE_GPU_BYTES, Machine

__all__ = ["preference"]

BESIDE = 0.15
"""KV and compute buffers of a useful context, as a share of the weights, where no header has been read yet."""


def preference(sizes: Mapping[str, int], order: Sequence[str], machine: Machine) -> tuple[str, ...]:
    """Order quants (`sizes` by label, in bytes) for `store.select.by_labels`.

    `order` is kept among those that fit: on the GPUs if there are any, else in main memory too, else the smallest
    first. Labels that `order` does not know come last of their kind.
    """
    main = max(0, machine.free_bytes - RESERVE_CPU_BYTES)
    gpus = sum(max(0, gpu.free_bytes - RESERVE_GPU_BYTES) for gpu in machine.gpus)
    rank = {label: index for index, label in enumerate(order)}

    def key(label: str) -> tuple[int, int, int]:
        needed = round(sizes[label] * (1 + BESIDE))
        known = rank.get(label, len(rank))
        if machine.gpus and needed <= gpus:
            return (0, known, sizes[label])
        if needed <= gpus + main:
            # With a GPU that is too small, each byte less puts more layers on it.
            return (1, 0, sizes[label]) if machine.gpus else (1, known, sizes[label])
        return (2, 0, sizes[label])

    return tuple(sorted(sizes, key=key))
