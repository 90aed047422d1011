"""Grows the window of a request, its context, into the memory that is left.

The rule: if N_CTX is not set and nothing had to be given up, the number of requests stays and the window grows, up to
the length that the model was trained for, while the plan stays within `GROWTH_SHARE` of the room on each device.
Nothing else changes for it: no layer moves and no other value shrinks. The window is never shorter than the one from
which it grows.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from worker_gguf.engine.machine import Machine
from worker_gguf.plan.kv_steps import DEFAULT_N_CTX, Choice
from worker_gguf.plan.memory_plan import Constraints
from worker_gguf.plan.shape import ModelShape
from worker_gguf.plan.usage import DeviceUse, measure
from worker_gguf.plan.weight_placements import FitCheck

__all__ = ["CLEARED_BYTES", "GROWTH_SHARE", "LONGEST_N_CTX", "grown"]

GROWTH_SHARE: Final = 0.95
"""The part of the room on a device that a grown window may fill. The plan is right within 5 %."""
CLEARED_BYTES: Final = 512 << 20
"""The KV cache in main memory to which a window may grow, so that opening the context takes less than a second.

llama.cpp clears the whole cache at that moment: 0.4 s for each GB on idle cores, 2 s on busy ones (docs/cold-start.md).
The time follows the bytes; the number of cells does not matter. A GPU clears its memory in milliseconds.
"""
LONGEST_N_CTX: Final = 1 << 18
"""The longest window that is planned unless N_CTX is set. Files state lengths of up to 10 million tokens, at which the
masks of one batch alone take gigabytes and a prompt takes hours.
"""
STEP: Final = 1024


def grown(choice: Choice, model: ModelShape, machine: Machine, constraints: Constraints) -> Choice:
    """Return the choice with the longest window that the rule permits, and the reason that it is not longer."""
    if constraints.n_ctx is not None or choice.layout.n_ctx < min(DEFAULT_N_CTX, model.n_ctx_train or DEFAULT_N_CTX):
        return choice
    if choice.layout.n_ctx >= model.n_ctx_train:
        if not model.n_ctx_train:
            return _reason(choice, "the default, because the file does not state the training length")
        return _reason(choice, "the training length of the model")
    if constraints.shares_memory:
        return _reason(choice, "the default where several models share the memory")
    if choice.gave_up:
        return _reason(choice, "the default, because memory is short")
    most = min(model.n_ctx_train, LONGEST_N_CTX)
    if constraints.n_cells is not None:  # a longer window must not overcommit a memory that did not before
        most = max(choice.layout.n_ctx, min(most, constraints.n_cells // choice.layout.n_parallel))
    fit_check = FitCheck(model, machine, constraints)
    sizes = [*range(choice.layout.n_ctx + STEP, most, STEP), most] if most > choice.layout.n_ctx else []

    def limit(n_ctx: int) -> str | None:
        return _limit(fit_check, choice.changed("", n_ctx=n_ctx))

    # Bisection works because a longer window never uses less of a device.
    n = bisect_left(sizes, True, key=lambda n_ctx: limit(n_ctx) is not None)
    if n == len(sizes):
        return _completed(fit_check, choice, most, _at_most(most, model))
    return _completed(fit_check, choice, sizes[n - 1] if n else choice.layout.n_ctx, limit(sizes[n]) or "")


def _limit(fit_check: FitCheck, choice: Choice) -> str | None:
    """Return why a window may not be as long as this, or None."""
    complete = fit_check.complete(choice)
    if complete is None:
        return "all that fits in the memory that is left"
    uses = measure(fit_check.model, fit_check.machine, complete.layout)
    if not all(_fits_grown(use) for use in uses):
        return "all that fits in the memory that is left"
    if uses[-1].kv_bytes > CLEARED_BYTES:
        return f"a longer one would clear more than {CLEARED_BYTES >> 20} MiB of main memory at each start"
    return None


def _fits_grown(use: DeviceUse) -> bool:
    return use.used_bytes <= GROWTH_SHARE * use.room_bytes


def _completed(fit_check: FitCheck, choice: Choice, n_ctx: int, why: str) -> Choice:
    if n_ctx == choice.layout.n_ctx:
        return _reason(choice, why)
    return fit_check.complete(choice.changed(why, n_ctx=n_ctx)) or _reason(choice, why)


def _at_most(most: int, model: ModelShape) -> str:
    if most == model.n_ctx_train:
        return "the training length of the model"
    if most == LONGEST_N_CTX:
        return "the longest that is planned; set N_CTX for a longer one"
    return "a longer one would overcommit N_CELLS"


def _reason(choice: Choice, why: str) -> Choice:
    return Choice(choice.layout, choice.reasons | {"n_ctx": why}, choice.gave_up)
