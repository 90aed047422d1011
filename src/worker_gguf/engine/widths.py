"""Chooses how many of its pending tokens each decoding sequence computes in a step, where grammars forced tokens.

llama.cpp computes slots of a partitioned memory in passes of equal shape: the same number of tokens from each of
several neighbouring slots (llama-batch.cpp, `split_equal`). So three forced tokens of one sequence are a pass of their
own beside the other sequences, and each pass reads the weights once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from worker_gguf.engine.costs import StepCosts
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.sequence import Sequence

__all__ = ["passes", "width_of"]


def width_of(decoding: Iterable[Sequence], limits: Limits, costs: StepCosts) -> int:
    """Return the most tokens that a decoding sequence should compute in this step, so that tokens take the least time.

    The forced tokens that are left out come in later steps, one in each, beside the tokens of the other sequences.
    """
    pending = {sequence.slot.id: sequence.n_pending for sequence in decoding if sequence.slot is not None}
    most = max(pending.values(), default=1)
    if most == 1 or len(pending) == 1 or not limits.partitioned:
        return most
    pending = dict(sorted(pending.items()))
    seconds = {width: _seconds(pending, width, costs) for width in (1, most)}
    if not seconds[1] or not seconds[most]:
        return most  # nothing was measured yet
    return 1 if len(pending) / seconds[1] > sum(pending.values()) / seconds[most] else most


def passes(pending: Mapping[int, int]) -> list[int]:
    """Return the number of tokens in each pass of llama.cpp. `pending` has those of each slot, in the slots' order."""
    left, sizes = dict(pending), []
    while left:
        slots = list(left)
        run = next((n for n in range(1, len(slots)) if slots[n] != slots[n - 1] + 1), len(slots))
        width = min(left[slot] for slot in slots[:run])
        sizes.append(width * run)
        for slot in slots[:run]:
            left[slot] -= width
            if not left[slot]:
                del left[slot]
    return sizes


def _seconds(pending: Mapping[int, int], width: int, costs: StepCosts) -> float:
    sizes = passes({slot: min(n, width) for slot, n in pending.items()})
    return sum(costs.of_rows(size) or 0.0 for size in sizes)
