"""Chooses the slot for a new sequence, and the computed tokens that it reuses.

Pure decisions over the tokens of the slots. Knows nothing of memory, threads or time.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Tokens

from msgspec import Struct

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.image_runs import at_start_of_run
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.sequence import Sequence, Slot

__all__ = [
    "MIN_SHARED_TOKENS",
    "Placement",
    "begins",
    "common_prefix",
    "least_copy",
    "place",
    "reusable",
    "soon_copied",
]

# In a shared memory, a copy only marks cells as belonging to one more sequence. Between partitions, llama.cpp always
# copies a whole part, even for a few tokens.
MIN_SHARED_TOKENS = 16
"""A copy of fewer tokens takes as long as computing them."""
PART_TOKENS_PER_COPIED = 64


class Placement(Struct, frozen=True):
    """The chosen slot `target`. Its first `n_reused` tokens come from `source`, which may be the target itself."""

    target: Slot
    source: Slot
    n_reused: int


def least_copy(limits: Limits) -> int:
    """Return the minimum number of tokens that are worth a copy."""
    return max(MIN_SHARED_TOKENS, limits.n_ctx // PART_TOKENS_PER_COPIED if limits.partitioned else 0)


def common_prefix(a: Tokens[int], b: Tokens[int]) -> int:
    """Return the length of the longest common prefix. Bisects, because comparing slices runs at C speed."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def begins(tokens: Tokens[int], beginning: Tokens[int]) -> bool:
    """Return whether `tokens` begin with all tokens of `beginning`."""
    return len(beginning) <= len(tokens) and tokens[: len(beginning)] == beginning


def reusable(held: Tokens[int], tokens: Tokens[int], *, n_uncut: int) -> int:
    """Return how many tokens of `held` a sequence can reuse. Its last token is always computed, for the logits.

    They are at least `n_uncut`, or none, and do not end inside an image.
    """
    n = at_start_of_run(tokens, common_prefix(held, tokens[:-1]))
    return n if n >= n_uncut else 0


def _reusable(slot: Slot, tokens: Tokens[int], adapters: AdapterSet, limits: Limits) -> int:
    if slot.adapters != adapters:
        return 0
    return reusable(slot.tokens, tokens, n_uncut=len(slot.tokens) if limits.prefix == "whole" else slot.n_uncut)


def place(
    slots: Tokens[Slot], tokens: Tokens[int], limits: Limits, *, reuse: bool, adapters: AdapterSet = ()
) -> Placement | None:
    """Choose a slot for `tokens`, computed with `adapters`. Returns None when all are busy.

    1. The slot whose tokens match best, in place, if it is idle and (partitioned) next to the busy ones.
    2. Otherwise an empty slot, or else the least recently used one. If a copy is worth it, the best match is copied
    into this slot.

    A partitioned memory computes neighbouring slots in one pass, so there only the slots that keep the busy ones
    together are considered: those with the same adapters, because a step has no others.
    """
    idle = [slot for slot in slots if slot.is_idle]
    if not idle:
        return None
    if limits.partitioned:
        idle = _next_to_busy(slots, idle, adapters)
    scores = {slot.id: _reusable(slot, tokens, adapters, limits) if reuse else 0 for slot in slots}
    best_idle = max(idle, key=lambda slot: (scores[slot.id], -len(slot.tokens), -slot.last_used, -slot.id))
    best = max(slots, key=lambda slot: scores[slot.id])
    if scores[best.id] >= scores[best_idle.id] + least_copy(limits) and _can_copy(best, scores[best.id], limits):
        others = [slot for slot in idle if slot is not best]
        if others:
            target = min(others, key=lambda slot: (len(slot.tokens) > 0, slot.last_used, slot.id))
            return Placement(target, best, scores[best.id])
    if scores[best_idle.id] == 0:
        target = min(idle, key=lambda slot: (len(slot.tokens) > 0, slot.last_used, slot.id))
        return Placement(target, target, 0)
    return Placement(best_idle, best_idle, scores[best_idle.id])


def soon_copied(sequence: Sequence, running: Iterable[Sequence], limits: Limits) -> bool:
    """Return whether a sequence should wait for a prefix that a running one is computing, to copy it."""
    if not sequence.request.cache_prompt or limits.prefix != "any":
        return False
    for other in running:
        if other.n_generated == 0 and other.n_pending > 0 and other.adapters == sequence.adapters:
            shared = common_prefix(other.request.prompt, sequence.request.prompt)
            # The last prompt token is computed only to draw from it; all others can be copied.
            if min(shared, other.n_prompt - 1) >= other.n_computed + least_copy(limits):
                return True
    return False


def _can_copy(source: Slot, n_tokens: int, limits: Limits) -> bool:
    return limits.prefix == "any" or n_tokens == len(source.tokens)


def _next_to_busy(slots: Tokens[Slot], idle: list[Slot], adapters: AdapterSet) -> list[Slot]:
    """Return the idle slots with the most busy neighbours: those in a gap, or else those at the end of a run.

    Only slots with these adapters count. If no idle slot has such a neighbour, the slots that are farthest from those
    with other adapters are returned, where both runs have room to grow, or all idle slots if there are no others.
    """
    busy = {slot.id for slot in slots if not slot.is_idle and slot.adapters == adapters}
    neighbours = {slot.id: (slot.id - 1 in busy) + (slot.id + 1 in busy) for slot in idle}
    if most := max(neighbours.values()):
        return [slot for slot in idle if neighbours[slot.id] == most]
    others = [slot.id for slot in slots if not slot.is_idle and slot.adapters != adapters]
    if not others:
        return idle
    distances = {slot.id: min(abs(slot.id - other) for other in others) for slot in idle}
    farthest = max(distances.values())
    return [slot for slot in idle if distances[slot.id] == farthest]
