"""Compares the memory that a loaded model uses on each GPU with the plan. A difference is logged, whatever the card."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from worker_gguf.engine.machine import Machine
from worker_gguf.plan import GPU_CONTEXT_BYTES, MemoryPlan
from worker_gguf.plan.planning import first_visible
from worker_gguf.settings import Settings

__all__ = ["GpuMemory", "compare_gpu_memory"]

logger = logging.getLogger(__name__)

_TOLERANCE: Final = 0.05
_TOLERANCE_BYTES: Final = 100 << 20


class GpuMemory(Struct, frozen=True):
    """The memory of one GPU, in bytes.

    `planned_bytes` and `used_bytes` include the context of the process. Because it was open before the first look,
    `used_bytes` has it at its planned size. `card_used_bytes` is everything in use on the card, by any process.
    """

    name: str
    planned_bytes: int
    used_bytes: int
    card_used_bytes: int

    @property
    def is_over(self) -> bool:
        """More is used than planned, by more than 5 % and more than 100 MiB."""
        over = self.used_bytes - self.planned_bytes
        return over > max(_TOLERANCE * self.planned_bytes, _TOLERANCE_BYTES)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_gpu_memory(
    plan: MemoryPlan, before: Machine, free_now: Sequence[int], settings: Settings
) -> tuple[GpuMemory, ...]:
    """Return and log the memory of each GPU that the plan uses.

    `before` is the machine before the load, as the engine process read it. `free_now` is the free memory of each of its
    GPUs when the first token had been drawn.
    """
    first = first_visible(settings)
    found = []
    for index, use in enumerate(use for use in plan.devices if use.is_gpu):
        at = first + index
        if use.used_bytes and at < len(free_now):
            gpu = before.gpus[at]
            held = GPU_CONTEXT_BYTES if gpu.has_context else 0
            used = max(0, gpu.free_bytes - free_now[at]) + held
            others = (other for other in (plan.draft, plan.projector) if other is not None)
            planned = use.used_bytes + sum(other.bytes_on(index) for other in others)
            found.append(GpuMemory(gpu.name, planned, used, gpu.total_bytes - free_now[at]))
            _log(found[-1])
    return tuple(found)


def _log(gpu: GpuMemory) -> None:
    fields = {
        "gpu": gpu.name,
        "planned_mib": gpu.planned_bytes >> 20,
        "used_mib": gpu.used_bytes >> 20,
        "card_used_mib": gpu.card_used_bytes >> 20,
    }
    if not gpu.is_over:
        logger.info("GPU memory", extra=fields)
        return
    reason = (
        "Either another process took GPU memory during the load, or the plan is wrong for this model or card: report "
        "it with this line. If memory runs out, set N_CTX or N_PARALLEL lower."
    )
    logger.warning("more GPU memory in use than planned", extra=fields | {"reason": reason})
