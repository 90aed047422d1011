"""Chooses how many of its pending tokens each decoding sequence computes in a step, where grammars forced tokens.

llama.cpp computes the slots of a partitioned memory in passes of equal shape (`costs.passes`). So several forced tokens
of one sequence are a pass of their own beside the other sequences, and each pass reads the weights once more.
"""

from __future__ import annotations

from collections.abc import Iterable

from worker_gguf.engine.costs import StepCosts
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.sequence import Sequence

__all__ = ["width_of"]


def width_of(decoding: Iterable[Sequence], limits: Limits, costs: StepCosts) -> int:
    """Return the most tokens that a decoding sequence should compute in this step, so that tokens take the least time.

    The forced tokens that are left out come in later steps, one in each, beside the tokens of the other sequences. The
    prompts of the step, which may share a pass with forced tokens, are not looked at.
    """
    pending = {sequence.slot_id: sequence.n_pending for sequence in decoding}
    most = max(pending.values(), default=1)
    if most == 1 or len(pending) == 1 or not limits.partitioned:
        return most
    pending = dict(sorted(pending.items()))
    seconds = {width: _seconds(pending, width, costs) for width in (1, most)}
    if not seconds[1] or not seconds[most]:
        return most  # nothing was measured yet
    return 1 if len(pending) / seconds[1] > sum(pending.values()) / seconds[most] else most


def _seconds(pending: dict[int, int], width: int, costs: StepCosts) -> float:
    computed = {slot: min(n, width) for slot, n in pending.items()}
    return costs.of_decoding(len(pending), sum(computed.values()) - len(pending), computed) or 0.0
