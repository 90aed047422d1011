"""The content of each slot of the model's memory, and the operations that produce it. Knows nothing of scheduling.

Two invariants:

slot.tokens                    the content of the slot after all operations and batches so far
sequence.tokens[:n_computed]   equals the tokens of the slot in which the sequence runs
"""

from __future__ import annotations

from worker_gguf.engine.batch import Close, Copy, Open, Operation, Truncate
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.sequence import Sequence, Slot
from worker_gguf.engine.slots import Placement, place

__all__ = ["Memory"]


class Memory:
    """The slots, and the operations that have not been carried out yet."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.slots = [Slot(i) for i in range(limits.n_slots)]
        self._operations: list[Operation] = []
        self._tick = 0

    @property
    def is_settled(self) -> bool:
        """Whether `take_operations` has returned all operations."""
        return not self._operations

    @property
    def n_held(self) -> int:
        """Number of tokens in memory, including cached prefixes. A token that slots share counts once for each slot."""
        return sum(len(slot.tokens) for slot in self.slots)

    @property
    def room(self) -> int:
        """Number of tokens that can be added. A partitioned memory always has room for each slot's whole context."""
        return self.limits.n_ctx * self.limits.n_slots if self.limits.partitioned else self.limits.n_cells - self.n_held

    def take_operations(self) -> tuple[Operation, ...]:
        operations, self._operations = tuple(self._operations), []
        return operations

    # --- sequences come and go ------------------------------------------------------------------------------------

    def claim(self, sequence: Sequence) -> bool:
        """Give the sequence a slot and reuse its tokens in memory.

        Returns False if no slot or too little room is free.
        """
        placement = place(self.slots, sequence.tokens, self.limits, reuse=sequence.request.cache_prompt)
        if placement is None or not self._make_room(sequence, placement.target):
            return False
        self._occupy(sequence, placement)
        return True

    def release(self, sequence: Sequence) -> Slot:
        """Take the sequence out of its slot. The tokens of the slot stay as a cached prefix."""
        slot = sequence.slot
        assert slot is not None
        slot.sequence = None
        sequence.slot = None
        return slot

    def append(self, slot: Slot, tokens: list[int]) -> None:
        slot.tokens += tokens
        self.touch(slot)

    def cut(self, slot: Slot, n_tokens: int) -> None:
        """Keep only the first `n_tokens` of the slot."""
        del slot.tokens[n_tokens:]
        self._operations.append(Truncate(slot.id, n_tokens))

    def touch(self, slot: Slot) -> None:
        self._tick += 1
        slot.last_used = self._tick

    def empty(self, slot: Slot) -> None:
        slot.tokens = []
        self._operations.append(Truncate(slot.id, 0))

    def forget_oldest(self, keep: Slot | None = None) -> bool:
        """Drop the least recently used prefix, but never the one in `keep`. Returns False if there is none to drop."""
        idle = [slot for slot in self.slots if slot.is_idle and slot.tokens and slot is not keep]
        if not idle:
            return False
        self.empty(min(idle, key=lambda slot: slot.last_used))
        return True

    def close(self, sequence: Sequence) -> None:
        """Free what belongs to a request that has ended."""
        self._operations.append(Close(sequence.id))

    # --- placing --------------------------------------------------------------------------------------------------

    def _make_room(self, sequence: Sequence, target: Slot) -> bool:
        """Drop cached prefixes until the sequence fits. Returns False if running sequences leave too little room."""
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
            # The source may have been dropped to make room, and then nothing is left to copy.
            n_reused = min(n_reused, len(source.tokens))
            self._operations.append(Copy(source.id, target.id, n_reused))
            if source.is_idle:
                source.last_used = 0  # the copy replaces it, so drop this prefix first
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
