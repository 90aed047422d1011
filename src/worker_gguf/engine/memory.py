"""The content of each slot of the model's memory, and the operations that produce it. Knows nothing of scheduling.

Two invariants:

slot.tokens                    the content of the slot after all operations and batches so far
sequence.tokens[:n_computed]   equals the tokens of the slot in which the sequence runs
"""

from __future__ import annotations

from worker_gguf.engine.batch import Batch, Close, Copy, Load, Open, Operation, Save, Saved, Truncate
from worker_gguf.engine.prompt_cache import Entry, PromptCache
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.sequence import Sequence, Slot
from worker_gguf.engine.slots import MIN_SHARED_TOKENS, Placement, begins, place

__all__ = ["Memory"]


class Memory:
    """The slots, and the operations that have not been carried out yet."""

    def __init__(self, limits: Limits, cache: PromptCache | None = None) -> None:
        """`cache` keeps the content of slots that would be lost."""
        self.limits = limits
        self.cache = cache
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
        reuse = sequence.request.cache_prompt
        placement = place(self.slots, sequence.tokens, self.limits, reuse=reuse, adapters=sequence.adapters)
        if placement is None:
            return False
        cache = self.cache
        if cache is not None and reuse and (found := cache.find(sequence.tokens, sequence.adapters)) is not None:
            entry, n_reused = found
            n_saved = n_reused - placement.n_reused
            is_better = n_saved >= MIN_SHARED_TOKENS and cache.is_worth_loading(entry, n_saved)
            if is_better and self._claim_saved(sequence, entry, n_reused):
                return True
        if not self._make_room(len(sequence.tokens) + 1, placement.target):
            return False
        self._occupy(sequence, placement)
        return True

    def _claim_saved(self, sequence: Sequence, entry: Entry, n_reused: int) -> bool:
        """Give the sequence a slot with a saved state. Returns False, and changes nothing, if there is no room."""
        placement = place(self.slots, sequence.tokens, self.limits, reuse=False)
        assert self.cache is not None
        assert placement is not None
        target = placement.target
        self.cache.touch(entry)
        if not self._make_room(max(len(sequence.tokens) + 1, len(entry.tokens)), target, entry):
            return False
        self._save(target, 0, entry)
        self._operations.append(Load(target.id, entry.key))
        if n_reused < len(entry.tokens):
            self._operations.append(Truncate(target.id, n_reused))
        self._seat(sequence, target, entry.tokens[:n_reused])
        target.n_uncut = n_reused if self.limits.saved_prefix == "whole" else 0
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

    def empty(self, slot: Slot, *, save: bool = True, keep_entry: Entry | None = None) -> None:
        """Empty a slot. Its content is saved if that is worth it, unless `save` is False."""
        if save:
            self._save(slot, 0, keep_entry)
        slot.tokens, slot.n_uncut = [], 0
        self._operations.append(Truncate(slot.id, 0))

    def forget_oldest(self, keep_slot: Slot | None = None, keep_entry: Entry | None = None) -> bool:
        """Take the least recently used prefix out of its slot, but never the one in `keep_slot`.

        Returns False if there is none.
        """
        idle = [slot for slot in self.slots if slot.is_idle and slot.tokens and slot is not keep_slot]
        if not idle:
            return False
        self.empty(min(idle, key=lambda slot: slot.last_used), keep_entry=keep_entry)
        return True

    # --- saved states ---------------------------------------------------------------------------------------------

    def checkpoint(self, slot: Slot) -> None:
        """Save the content of a slot as it is now, if that is worth it."""
        cache, tokens = self.cache, slot.tokens
        if cache is not None and cache.is_worth(len(tokens)) and not cache.has(tokens, slot.adapters):
            self._add(slot, None)

    def note_saved(self, saved: Saved) -> None:
        if self.cache is not None:
            self._operations += self.cache.note(saved)

    def forget_saved(self) -> None:
        if self.cache is not None:
            self._operations += self.cache.clear()

    def note_lost(self, batch: Batch, lost: tuple[int, ...]) -> None:
        """The content of some slots could not be loaded, cut or copied. Their sequences compute all tokens again."""
        for operation in batch.operations:
            if isinstance(operation, Load) and operation.slot in lost and self.cache is not None:
                self._operations += self.cache.forget(operation.key)
        for slot_id in lost:
            slot = self.slots[slot_id]
            slot.tokens, slot.n_uncut = [], 0
            if slot.sequence is not None:
                slot.sequence.note_held(0)

    def _save(self, slot: Slot, n_kept: int, keep_entry: Entry | None = None) -> None:
        """Save a slot that is about to lose all but `n_kept` tokens, if that is worth it and they are nowhere else."""
        cache, tokens = self.cache, slot.tokens
        n_lost = len(tokens) - n_kept
        if cache is None or n_lost <= n_kept or cache.has(tokens, slot.adapters):
            return
        if not cache.is_worth(n_lost):
            cache.note_refused(n_lost)
            return
        others = [other for other in self.slots if other is not slot and other.adapters == slot.adapters]
        if self.limits.saved_prefix == "any" and any(begins(other.tokens, tokens) for other in others):
            return
        self._add(slot, keep_entry)

    def _add(self, slot: Slot, keep_entry: Entry | None) -> None:
        assert self.cache is not None
        key, drops = self.cache.add(slot.tokens, keep_entry, slot.adapters)
        self._operations += drops
        if key is not None:
            self._operations.append(Save(slot.id, key))

    def close(self, sequence: Sequence) -> None:
        """Free what belongs to a request that has ended."""
        self._operations.append(Close(sequence.id))

    # --- placing --------------------------------------------------------------------------------------------------

    def _make_room(self, needed: int, target: Slot, keep_entry: Entry | None = None) -> bool:
        """Drop cached prefixes until `needed` tokens fit into `target`.

        Returns False if running sequences leave too little room.
        """
        if self.limits.partitioned:
            return True
        busy = sum(len(slot.tokens) for slot in self.slots if not slot.is_idle)
        if busy + needed > self.limits.n_cells:
            return False
        while self.n_held - len(target.tokens) + needed > self.limits.n_cells and self.forget_oldest(
            target, keep_entry
        ):
            pass
        return True

    def _occupy(self, sequence: Sequence, placement: Placement) -> None:
        target, source, n_reused = placement.target, placement.source, placement.n_reused
        if source is not target:
            # The source may have been dropped to make room, and then nothing is left to copy.
            n_reused = min(n_reused, len(source.tokens))
            self._save(target, 0)
            self._operations.append(Copy(source.id, target.id, n_reused))
            target.n_uncut = source.n_uncut
            if source.is_idle:
                source.last_used = 0  # the copy replaces it, so drop this prefix first
            else:
                self.touch(source)
        elif n_reused < len(target.tokens):
            self._save(target, n_reused)
            self._operations.append(Truncate(target.id, n_reused))
        if not n_reused:
            target.n_uncut = 0
        self._seat(sequence, target, sequence.tokens[:n_reused])

    def _seat(self, sequence: Sequence, target: Slot, held: list[int]) -> None:
        self._operations.append(Open(target.id, sequence.request, sequence.tokens))
        target.tokens, target.adapters = held, sequence.adapters
        target.sequence = sequence
        self.touch(target)
        sequence.slot = target
        sequence.note_held(len(held))
