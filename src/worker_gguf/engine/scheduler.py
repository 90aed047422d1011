"""Decides which tokens run next. Knows nothing of llama.cpp, HTTP, threads or time: integers in, batches out.

A sequence is waiting (no slot), or running (has a slot: first prefilling, then decoding), and ends exactly once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import zip_longest

from worker_gguf.engine.batch import Batch, Chunk, Sampled, StepResult
from worker_gguf.engine.events import FinishReason
from worker_gguf.engine.memory import Memory
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.sequence import Sequence, Slot
from worker_gguf.engine.slots import common_prefix, least_copy
from worker_gguf.engine.updates import Ended, Token, Update
from worker_gguf.errors import (
    DeadlineExceeded,
    EngineFailed,
    QueueFull,
    WorkerError,
)

__all__ = ["Scheduler"]


class Scheduler:
    """Continuous batching over a fixed number of slots, first come, first served."""

    def __init__(self, limits: Limits, *, max_queue: int, prefill_chunk: int | None = None) -> None:
        """`max_queue` requests may wait beyond those that have a slot. `prefill_chunk` is the most prompt tokens of a
        step while others decode, so that a long prompt does not stall them."""
        self.limits = limits
        self.max_queue = max_queue
        self.prefill_chunk = min(prefill_chunk or limits.n_batch, limits.n_batch)
        self.memory = Memory(limits)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest arrival first
        self._by_id: dict[str, Sequence] = {}
        self._arrivals = 0

    @property
    def is_idle(self) -> bool:
        return not self._by_id and self.memory.is_settled

    # --- commands -------------------------------------------------------------------------------------------------

    def add(self, request: GenerationRequest, start_by_s: float | None = None) -> None:
        """Take a request in, or raise QueueFull. Without a slot by `start_by_s` it expires."""
        # The service refuses such prompts with a message for the client; here they could only be a bug.
        assert request.id not in self._by_id, "two requests with one id"
        assert 0 < len(request.prompt) < self.limits.n_ctx, "a prompt that the context cannot hold"
        if len(self._by_id) >= self.limits.n_slots + self.max_queue:
            raise QueueFull.of(len(self._by_id), self.limits.n_slots + self.max_queue)
        sequence = Sequence(request, self._arrivals, start_by_s)
        self._arrivals += 1
        self._by_id[request.id] = sequence
        self.waiting.append(sequence)

    def finish(self, request_id: str, reason: FinishReason, error: WorkerError | None = None) -> list[Update]:
        """End a sequence now; its slot is free before the next step. Unknown ids (already ended) are nothing."""
        sequence = self._by_id.get(request_id)
        return [] if sequence is None else [self._end(sequence, reason, error)]

    def finish_all(self, reason: FinishReason, error: WorkerError | None = None) -> list[Update]:
        return [self._end(sequence, reason, error) for sequence in list(self._by_id.values())]

    def reset(self, error: WorkerError) -> list[Update]:
        """End every sequence and clear the memory. Used when the content of the memory is unknown."""
        updates = self.finish_all("error", error)
        for slot in self.memory.slots:
            self.memory.empty(slot)
        return updates

    def expire(self, now_s: float, retry_after_s: int = 1) -> list[Update]:
        """End every sequence whose deadline is past, or that has waited too long to begin."""
        late = [s for s in self._by_id.values() if s.request.deadline_s is not None and s.request.deadline_s <= now_s]
        updates: list[Update] = [
            self._end(s, "error", DeadlineExceeded(f"The request timed out after {s.n_generated} tokens."))
            for s in late
        ]
        unbegun = [s for s in self.waiting if s.start_by_s is not None and s.start_by_s <= now_s and s.is_unbegun]
        return updates + [self._end(s, "error", QueueFull.waited(retry_after_s)) for s in unbegun]

    # --- a step ---------------------------------------------------------------------------------------------------

    def schedule(self) -> Batch | None:
        """The next step, or None when there is nothing to do."""
        self._admit()
        chunks = self._chunks()
        operations = self.memory.take_operations()
        if not chunks and not operations:
            return None
        return Batch(operations, tuple(sorted(chunks, key=lambda chunk: chunk.slot)))

    def commit(self, batch: Batch, result: StepResult) -> list[Update]:
        """Apply the result of a step."""
        updates: list[Update] = []
        for slot_id, refusal in result.refused:
            if (sequence := self.memory.slots[slot_id].sequence) is not None:
                updates.append(self._end(sequence, "error", refusal))
        if result.no_space:
            return updates + self._make_room_after_refusal(batch)
        if result.error is not None:
            return updates + self._fail(batch, result.error)
        for chunk in batch.chunks:
            slot = self.memory.slots[chunk.slot]
            self.memory.append(slot, chunk.tokens)
            if slot.sequence is not None:
                slot.sequence.n_computed += len(chunk.tokens)
                if slot.sequence.only_evaluates and slot.sequence.n_pending == 0:
                    updates.append(self._end(slot.sequence, "length"))
        for sampled in result.sampled:
            sequence = self.memory.slots[sampled.slot].sequence
            if sequence is not None:
                updates += self._draw(sequence, sampled)
        for chunk in batch.chunks:
            if chunk.n_outputs > 1:
                self._drop_wrong_guesses(chunk)
        return updates

    # --- admission ------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        passed: list[Sequence] = []
        while self.waiting and len(self.running) < self.limits.n_slots:
            sequence = self.waiting.popleft()
            if self._soon_cached(sequence):
                passed.append(sequence)
            elif self.memory.claim(sequence):
                self.running.append(sequence)
                self.running.sort(key=lambda running: running.arrival)
            else:
                passed.append(sequence)
                break
        self.waiting.extendleft(reversed(passed))

    def _soon_cached(self, sequence: Sequence) -> bool:
        """A running sequence is just computing a prompt that begins alike: waiting for it saves computing it twice."""
        if not sequence.request.cache_prompt or self.limits.prefix != "any":
            return False
        for other in self.running:
            if other.n_generated == 0 and other.n_pending > 0:
                shared = common_prefix(other.request.prompt, sequence.request.prompt)
                # Its last prompt token is drawn from; the others are in memory once it decodes.
                if min(shared, other.n_prompt - 1) >= other.n_computed + least_copy(self.limits):
                    return True
        return False

    # --- building a batch -----------------------------------------------------------------------------------------

    def _chunks(self) -> list[Chunk]:
        """The drawn tokens of each decoding sequence, then prompt tokens, oldest first, up to the step's budget."""
        n_decoding = sum(sequence.n_pending for sequence in self.running if sequence.is_decoding)
        budget = self.limits.n_batch - n_decoding
        if n_decoding:
            budget = min(budget, self.prefill_chunk)
        room = self.memory.room
        chunks: list[Chunk] = []
        for sequence in list(self.running):
            if sequence.slot is None:
                continue  # made to wait by an older one, above
            wanted = sequence.n_pending if sequence.is_decoding else min(sequence.n_pending, budget)
            if room < wanted:
                room += self._reclaim(wanted - room, sequence)
            n = min(wanted, room)
            if n <= 0 or sequence.slot is None:
                continue
            chunks.append(self._chunk(sequence, sequence.slot, n))
            room -= n
            if not sequence.is_decoding:
                budget -= n
        return chunks

    def _chunk(self, sequence: Sequence, slot: Slot, n: int) -> Chunk:
        start = sequence.n_computed
        tokens = sequence.tokens[start : start + n]
        draws = n == sequence.n_pending and not sequence.only_evaluates
        return Chunk(slot.id, start, tokens, n_outputs=int(draws))

    def _reclaim(self, wanted: int, sequence: Sequence) -> int:
        """Free memory: idle prefixes, oldest use first, then make sequences younger than this one wait, then itself."""
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
        """Take the sequence's memory. It starts again later with all its tokens, so nothing is lost."""
        self.memory.empty(self._leave(sequence))
        sequence.n_computed = 0
        self.waiting.appendleft(sequence)

    # --- taking results in ----------------------------------------------------------------------------------------

    def _draw(self, sequence: Sequence, sampled: Sampled) -> Iterable[Update]:
        """Add the drawn tokens, up to the one that ends the sequence. The tokens behind it are dropped."""
        updates: list[Update] = []
        limit = sequence.request.max_tokens
        sequence.n_drawn = len(sampled.tokens)
        for token, logprob in zip_longest(sampled.tokens, sampled.logprobs):
            sequence.tokens.append(token)
            if token in self.limits.eog and not sequence.request.sampling.ignore_eos:
                return [*updates, self._end(sequence, "stop")]
            updates.append(Token(sequence, token, logprob))
            if (limit is not None and sequence.n_generated >= limit) or len(sequence.tokens) >= self.limits.n_ctx:
                return [*updates, self._end(sequence, "length")]
        return updates

    def _drop_wrong_guesses(self, chunk: Chunk) -> None:
        """Cut the memory where the tokens drawn part ways with those that the chunk had guessed."""
        slot = self.memory.slots[chunk.slot]
        sequence = slot.sequence
        if sequence is None:
            return  # it has ended; its slot is a prefix of tokens that were really computed
        n_right = chunk.start + common_prefix(chunk.tokens, sequence.tokens[chunk.start :])
        if n_right < len(slot.tokens):
            self.memory.cut(slot, n_right)
        sequence.n_computed = n_right

    def _make_room_after_refusal(self, batch: Batch) -> list[Update]:
        """Make room after the memory refused a batch that should have fit: drop a prefix, or make the youngest sequence
        wait, or end all.
        """
        if self.memory.forget_oldest():
            return []
        if len(self.running) > 1:
            self._make_wait(self.running[-1])
            return []
        error = EngineFailed(
            f"The model's memory refused {batch.n_tokens} tokens with nothing else in it. Lower N_CTX or N_BATCH."
        )
        return self.finish_all("error", error)

    def _fail(self, batch: Batch, error: WorkerError) -> list[Update]:
        """The step failed: every sequence in it ends with the error and its memory counts as empty."""
        updates: list[Update] = []
        for chunk in batch.chunks:
            slot = self.memory.slots[chunk.slot]
            if slot.sequence is not None:
                updates.append(self._end(slot.sequence, "error", error))
            self.memory.empty(slot)
        return updates

    def _end(self, sequence: Sequence, reason: FinishReason, error: WorkerError | None = None) -> Ended:
        del self._by_id[sequence.id]
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self._leave(sequence)
        self.memory.close(sequence)
        return Ended(sequence, reason, error)

    def _leave(self, sequence: Sequence) -> Slot:
        self.running.remove(sequence)
        return self.memory.release(sequence)
