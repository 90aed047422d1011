"""Decides which tokens run next. Knows nothing of llama.cpp, HTTP, threads or time: integers in, batches out.

A sequence is waiting (without a slot) or running (in a slot, first prefilling, then decoding), and ends exactly once.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from itertools import zip_longest
from operator import attrgetter

from worker_gguf.engine.adapter_turns import AdapterTurns
from worker_gguf.engine.adapters import is_adapter_set
from worker_gguf.engine.batch import Batch, Chunk, Sampled, StepResult
from worker_gguf.engine.chunks import chunk_of, most_of_prompt, with_guesses
from worker_gguf.engine.costs import StepCosts
from worker_gguf.engine.drafter import Drafter
from worker_gguf.engine.memory import Memory
from worker_gguf.engine.prompt_cache import PromptCache
from worker_gguf.engine.prompt_share import PromptShare, until_checkpoint
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.sequence import Sequence, Slot
from worker_gguf.engine.slots import common_prefix, soon_copied
from worker_gguf.engine.speculation import Drafted, Speculation
from worker_gguf.engine.updates import Ended, FinishReason, Scored, Token, Update, timed_out
from worker_gguf.engine.widths import width_of
from worker_gguf.errors import EngineFailed, QueueFull, WorkerError

__all__ = ["PLACES_PER_PRIORITY", "Scheduler"]

PLACES_PER_PRIORITY = 64
"""A priority that is lower by one is worth so many places in the queue, so every request gets its turn."""
_turn = attrgetter("turn")


class Scheduler:
    """Continuous batching over a fixed number of slots: by priority, then first come, first served."""

    def __init__(
        self,
        limits: Limits,
        *,
        eog: frozenset[int],
        max_queue: int,
        prefill_chunk: int | None = None,
        cache_bytes: int = 0,
        drafter: Drafter | None = None,
    ) -> None:
        """`eog` are the tokens that end an answer. `drafter` guesses tokens.

        `cache_bytes` is the size of the prompt cache in main memory, 0 for none. `max_queue` is the number of
        requests that may wait while all slots are busy. `prefill_chunk` is the maximum number of prompt tokens in a
        step while other sequences decode.
        """
        self.limits = limits
        self._eog = eog
        self.max_queue = max_queue
        self.prefill_chunk = min(prefill_chunk or limits.n_batch, limits.n_batch)
        self._costs = StepCosts(partitioned=limits.partitioned)
        self.memory = Memory(limits, PromptCache(cache_bytes, limits, self._costs) if cache_bytes else None)
        self.waiting: list[Sequence] = []  # both lists in the order of turns
        self.running: list[Sequence] = []
        self._by_id: dict[str, Sequence] = {}
        self._arrivals = 0
        self._turns = AdapterTurns()
        # The memory refused the last step or lost something, so nobody is admitted until one has succeeded.
        self._is_crowded = False
        # A memory that cannot be cut cannot take back a wrong guess.
        can_guess = limits.n_rows > limits.n_slots and limits.prefix == "any"
        self._speculation = Speculation(limits, self._costs, drafter) if can_guess else None

    @property
    def is_idle(self) -> bool:
        return not self._by_id and self.memory.is_settled

    # --- commands -------------------------------------------------------------------------------------------------

    def add(self, request: GenerationRequest, start_by_s: float | None = None) -> None:
        """Add a request, or raise QueueFull. The request expires if it has no slot by `start_by_s`."""
        # The service refuses such prompts with a message for the client, so here they are a bug.
        assert request.id not in self._by_id, "two requests have the same id"
        assert 0 < len(request.prompt) < self.limits.n_ctx, "the context cannot hold the prompt"
        assert is_adapter_set(request.adapters, self.limits.n_adapters), "the adapters are no set of those loaded"
        if len(self._by_id) >= self.limits.n_slots + self.max_queue:
            raise QueueFull.of(len(self._by_id), self.limits.n_slots + self.max_queue)
        sequence = Sequence(request, self._arrivals + PLACES_PER_PRIORITY * request.priority, start_by_s)
        self._arrivals += 1
        self._by_id[request.id] = sequence
        insort(self.waiting, sequence, key=_turn)

    def finish(self, request_id: str, reason: FinishReason, error: WorkerError | None = None) -> list[Update]:
        """End a sequence now. Its slot is free before the next step. Does nothing if the id is unknown or has ended."""
        sequence = self._by_id.get(request_id)
        return [] if sequence is None else [self._end(sequence, reason, error)]

    def finish_all(self, reason: FinishReason, error: WorkerError | None = None) -> list[Update]:
        return [self._end(sequence, reason, error) for sequence in list(self._by_id.values())]

    def reset(self, error: WorkerError) -> list[Update]:
        """End every sequence and clear the memory. For use when the content of the memory is unknown."""
        updates = self.finish_all("error", error)
        for slot in self.memory.slots:
            self.memory.empty(slot, save=False)
        self.memory.forget_saved()
        return updates

    def expire(self, now_s: float, retry_after_s: int = 1) -> list[Update]:
        """End every sequence whose deadline has passed, or that has waited too long for its first slot."""
        late = [s for s in self._by_id.values() if s.request.deadline_s is not None and s.request.deadline_s <= now_s]
        updates: list[Update] = [self._end(s, "error", timed_out(f"after {s.n_generated} tokens")) for s in late]
        unbegun = [s for s in self.waiting if s.start_by_s is not None and s.start_by_s <= now_s and s.is_unbegun]
        return updates + [self._end(s, "error", QueueFull.waited(retry_after_s)) for s in unbegun]

    # --- a step ---------------------------------------------------------------------------------------------------

    def schedule(self) -> Batch | None:
        """Return the next step, or None if there is nothing to do."""
        self._admit()
        chunks = self._chunks()
        operations = self.memory.take_operations()
        if not chunks and not operations:
            return None
        return Batch(operations, tuple(sorted(chunks, key=lambda chunk: chunk.slot)), self._turns.current)

    def take_drafted(self) -> Drafted:
        """Return what the draft model did for the last step."""
        return Drafted() if self._speculation is None else self._speculation.take_drafted()

    def commit(self, batch: Batch, result: StepResult) -> list[Update]:
        """Apply the result of a step."""
        for saved in result.saved:
            self.memory.note_saved(saved)
        updates: list[Update] = []
        for slot_id, refusal in result.refused:
            if (sequence := self.memory.slots[slot_id].sequence) is not None:
                updates.append(self._end(sequence, "error", refusal))
        if result.lost:
            self.memory.note_lost(batch, result.lost)
            self._is_crowded = True
            return updates
        if result.no_space:
            return updates + self._make_room_after_refusal(batch)
        if result.error is not None:
            return updates + self._fail(batch, result.error)
        return updates + self._apply(batch, result)

    # --- admission ------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        if self._is_crowded and self.running:
            return
        passed: list[Sequence] = []
        for place, sequence in enumerate(self.waiting):
            if len(self.running) >= self.limits.n_slots:
                passed += self.waiting[place:]
                break
            if soon_copied(sequence, self.running, self.limits):
                passed.append(sequence)
            elif self.memory.claim(sequence):
                insort(self.running, sequence, key=_turn)
            else:
                passed += self.waiting[place:]
                break
        self.waiting = passed

    # --- building a batch -----------------------------------------------------------------------------------------

    def _chunks(self) -> list[Chunk]:
        """Build chunks: drawn tokens of all decoding sequences, and prompt tokens up to the budget, by turn.

        Only sequences with one set of adapters have chunks.
        """
        active = self._turns.active(self.running) if self.limits.n_adapters else self.running
        decoding = [sequence for sequence in active if sequence.is_decoding]
        budget = self.limits.n_batch - sum(sequence.n_pending for sequence in decoding)
        budget = min(budget, self.prefill_chunk) if decoding else budget
        budget = min(budget, self._turns.most_of_prompts(self._costs.per_prompt_token) or budget)
        divides = self.limits.divides_images
        share = PromptShare(active, decoding, self._costs, self.prefill_chunk, divides_images=divides)
        width = width_of(decoding, self.limits, self._costs)
        room = self.memory.room
        n_rows = self.limits.n_rows - len(active)
        parts: dict[Sequence, int] = {}
        for sequence in list(active):
            if sequence.slot is None:
                continue  # an older sequence took its memory, in an earlier turn of this loop
            is_decoding = sequence.is_decoding
            wanted = min(sequence.n_pending, width)
            if not is_decoding:
                wanted = min(self._wanted_of_prompt(sequence), share.most(sequence, budget))
                wanted = most_of_prompt(sequence, wanted, 1 + max(0, n_rows))
            if room < wanted:
                room += self._reclaim(wanted - room, sequence)
            n = min(wanted, room)
            if n <= 0 or sequence.slot is None:
                continue
            parts[sequence] = n
            room -= n
            if not is_decoding:
                n_rows -= min(n, sequence.n_unscored)
                budget -= n
                share.take(sequence, n)
        chunks = {sequence: chunk_of(sequence, n) for sequence, n in parts.items()}
        guesses = self._speculation.guesses(chunks, self.memory) if decoding and self._speculation else {}
        for sequence, tokens in guesses.items():
            chunks[sequence] = with_guesses(chunks[sequence], tokens)
        return list(chunks.values())

    def _wanted_of_prompt(self, sequence: Sequence) -> int:
        """Return how many pending tokens of a prompt to compute, and save its state where that is due."""
        left = until_checkpoint(sequence, self.memory)
        if left == 0 and sequence.slot is not None:
            self.memory.checkpoint(sequence.slot)
        return left or sequence.n_pending

    def _reclaim(self, wanted: int, sequence: Sequence) -> int:
        """Free at least `wanted` tokens if possible, and return how many were freed.

        Drops idle prefixes, the least recently used first. Then makes running sequences wait, the youngest first and
        this one last.
        """
        before = self.memory.n_held
        while before - self.memory.n_held < wanted:
            if self.memory.forget_oldest():
                continue
            youngest = self.running[-1]
            self._make_wait(youngest)
            if youngest is sequence:
                break
        return before - self.memory.n_held

    def _make_wait(self, sequence: Sequence) -> None:
        """Empty the sequence's slot and let the sequence wait again. It computes all its tokens again later."""
        self.memory.empty(self._leave(sequence))
        sequence.n_computed = 0
        insort(self.waiting, sequence, key=_turn)

    # --- applying results ---------------------------------------------------------------------------------------

    def _apply(self, batch: Batch, result: StepResult) -> list[Update]:
        """Apply the result of a step that was computed."""
        updates: list[Update] = []
        self._is_crowded = False
        self._costs.learn(batch, result)
        self._turns.note(result)
        for chunk in batch.chunks:
            slot = self.memory.slots[chunk.slot]
            self.memory.append(slot, chunk.tokens)
            if slot.sequence is not None:
                slot.sequence.n_computed += len(chunk.tokens)
                if slot.sequence.only_evaluates and slot.sequence.n_pending == 0:
                    updates.append(self._end(slot.sequence, "length"))
        for sampled in result.sampled:
            sequence = self.memory.slots[sampled.slot].sequence
            if sequence is None:
                continue
            if sampled.scored:
                sequence.n_scored += len(sampled.scored)
                updates.append(Scored(sequence, sampled.scored))
            else:
                updates += self._draw(sequence, sampled)
        for chunk in batch.chunks:
            if chunk.n_guesses:
                self._drop_wrong_guesses(chunk)
        return updates

    def _draw(self, sequence: Sequence, sampled: Sampled) -> Iterable[Update]:
        """Add the drawn tokens up to the one that ends the sequence, and drop the rest."""
        updates: list[Update] = []
        limit = sequence.request.max_tokens
        sequence.n_drawn = len(sampled.tokens)
        sequence.forced.update(len(sequence.tokens) + place for place in sampled.forced)
        for token, logprob in zip_longest(sampled.tokens, sampled.logprobs):
            sequence.tokens.append(token)
            if sequence.is_ended_by(token, self._eog):
                return [*updates, self._end(sequence, "stop", end_token=token)]
            updates.append(Token(sequence, token, logprob))
            if (limit is not None and sequence.n_generated >= limit) or len(sequence.tokens) >= self.limits.n_ctx:
                return [*updates, self._end(sequence, "length")]
        if self._speculation is not None:
            self._speculation.note(sequence, len(sampled.tokens))
        return updates

    def _drop_wrong_guesses(self, chunk: Chunk) -> None:
        """Cut the memory at the first guess of the chunk that differs from the drawn token."""
        slot = self.memory.slots[chunk.slot]
        sequence = slot.sequence
        if sequence is None:
            return  # the sequence has ended, and its slot may keep all tokens of the chunk, because all were computed
        n_right = chunk.start + common_prefix(chunk.tokens, sequence.tokens[chunk.start :])
        if n_right < len(slot.tokens):
            self.memory.cut(slot, n_right)
        sequence.n_computed = n_right

    def _make_room_after_refusal(self, batch: Batch) -> list[Update]:
        """Make room after the memory refused a batch that should have fit, or end the only sequence with an error."""
        if self.memory.forget_oldest():
            return []  # a cached prefix was dropped
        if len(self.running) > 1:
            self._is_crowded = True
            self._make_wait(self.running[-1])
            return []
        error = EngineFailed(
            f"The model's memory refused {batch.n_tokens} tokens although no other request was using it. "
            "Lower N_CTX or N_BATCH."
        )
        return self.finish_all("error", error)

    def _fail(self, batch: Batch, error: WorkerError) -> list[Update]:
        """End every sequence of a failed step with the error, and empty its slot."""
        updates: list[Update] = []
        for chunk in batch.chunks:
            slot = self.memory.slots[chunk.slot]
            if slot.sequence is not None:
                updates.append(self._end(slot.sequence, "error", error))
            self.memory.empty(slot, save=False)
        return updates

    def _end(
        self, sequence: Sequence, reason: FinishReason, error: WorkerError | None = None, end_token: int | None = None
    ) -> Ended:
        del self._by_id[sequence.id]
        if self._speculation is not None:
            self._speculation.forget(sequence)
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self._leave(sequence)
        self.memory.close(sequence)
        return Ended(sequence, reason, error, end_token)

    def _leave(self, sequence: Sequence) -> Slot:
        self.running.remove(sequence)
        return self.memory.release(sequence)
