"""What each slot of the model's memory holds, and the operations that will make it so. Knows nothing of who runs when.

slot.tokens           what the slot holds once the operations and batches so far have run
tokens[:n_computed]   of a sequence equals the tokens of the slot it runs in
"""

from __future__ import annotations

from worker_gguf.engine.batch import Close, Copy, Open, Operation, Truncate
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.sequence import Sequence, Slot
from worker_gguf.engine.slots import Placement, place

__all__ = ["Memory"]


class Memory:
    """The slots, and the operations not yet carried out."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.slots = [Slot(i) for i in range(limits.n_slots)]
        self._operations: list[Operation] = []
        self._tick = 0

    @property
    def is_settled(self) -> bool:
        """Every operation has been taken."""
        return not self._operations

    @property
    def n_held(self) -> int:
        """Tokens in memory, cached prefixes included. Tokens shared between slots count once for each."""
        return sum(len(slot.tokens) for slot in self.slots)

    @property
    def room(self) -> int:
        """The number of tokens that can be added. A slot with its own part of the memory always has room for its
        context.
        """
        return self.limits.n_ctx * self.limits.n_slots if self.limits.partitioned else self.limits.n_cells - self.n_held

    def take_operations(self) -> tuple[Operation, ...]:
        operations, self._operations = tuple(self._operations), []
        return operations

    # --- sequences come and go ------------------------------------------------------------------------------------

    def claim(self, sequence: Sequence) -> bool:
        """Give the sequence a slot, together with its tokens that are already in memory. Returns False if there is no
        place.
        """
        placement = place(self.slots, sequence.tokens, self.limits, reuse=sequence.request.cache_prompt)
        if placement is None or not self._make_room(sequence, placement.target):
            return False
        self._occupy(sequence, placement)
        return True

    def release(self, sequence: Sequence) -> Slot:
        """Take the sequence out of its slot, whose tokens stay as a cached prefix."""
        slot = sequence.slot
        assert slot is not None
        slot.sequence = None
        sequence.slot = None
        return slot

    def append(self, slot: Slot, tokens: list[int]) -> None:
        slot.tokens += tokens
        self.touch(slot)

    def cut(self, slot: Slot, n_tokens: int) -> None:
        """Keep the first tokens of the slot."""
        del slot.tokens[n_tokens:]
        self._operations.append(Truncate(slot.id, n_tokens))

    def touch(self, slot: Slot) -> None:
        self._tick += 1
        slot.last_used = self._tick

    def empty(self, slot: Slot) -> None:
        slot.tokens = []
        self._operations.append(Truncate(slot.id, 0))

    def forget_oldest(self, keep: Slot | None = None) -> bool:
        """Drop the cached prefix that was used longest ago. Returns False if there is none except in `keep`."""
        idle = [slot for slot in self.slots if slot.is_idle and slot.tokens and slot is not keep]
        if not idle:
            return False
        self.empty(min(idle, key=lambda slot: slot.last_used))
        return True

    def close(self, sequence: Sequence) -> None:
        """The request is over for good."""
        self._operations.append(Close(sequence.id))

    # --- placing --------------------------------------------------------------------------------------------------

    def _make_room(self, sequence: Sequence, target: Slot) -> bool:
        """Drop cached prefixes until the sequence's tokens fit. Returns False if they cannot fit next to the running
        ones.
        """
        if self.limits.partitioned:
            return True
        needed = len(sequence.tokens) + 1
        busy = sum(len(slot.tokens) for slot in self.slots if not slot.is_idle)
        if busy + needed > self.limits.n_cells:
            return False
        while self.n_held - len(target.tokens) + needed > self.limits.n_cells and self.forget_oldest(target):
            pass
        return True

    def _occupy(self, sequence: Sequence, placement: Placement) -> None:
        target, source, n_reused = placement.target, placement.source, placement.n_reused
        if source is not target:
            # The source may have been dropped to make room. Then there is nothing left to copy.
            n_reused = min(n_reused, len(source.tokens))
            self._operations.append(Copy(source.id, target.id, n_reused))
            if source.is_idle:
                source.last_used = 0  # its copy stands for it now: give this one up first
            else:
                self.touch(source)
        elif n_reused < len(target.tokens):
            self._operations.append(Truncate(target.id, n_reused))
        self._operations.append(Open(target.id, sequence.request, sequence.tokens))
        target.tokens = sequence.tokens[:n_reused]
        target.sequence = sequence
        self.touch(target)
        sequence.slot = target
        sequence.n_computed = n_reused
        if sequence.n_cached is None:
            sequence.n_cached = n_reused
