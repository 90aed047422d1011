"""Decides which tokens run next. Knows nothing of llama.cpp, HTTP, threads or time: integers in, batches out.

A sequence is waiting (no slot), or running (has a slot: first prefilling, then decoding), and ends exactly once.

    held in slot.tokens   what the slot's memory holds once the batches scheduled so far have run
    tokens[:n_computed]   equals slot.tokens while a sequence runs in it
    tokens[n_computed:]   still to compute: the rest of the prompt, or the token drawn last
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from worker_gguf.engine.batch import Batch, Chunk, Close, Copy, Open, Operation, Sampled, StepResult, Truncate
from worker_gguf.engine.events import FinishReason, TokenLogprob
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.sequence import Sequence, Slot
from worker_gguf.engine.slots import MIN_COPY_TOKENS, common_prefix, place
from worker_gguf.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    QueueFull,
    WorkerError,
)

__all__ = ["Ended", "Scheduler", "Token", "Update"]


@dataclass(frozen=True, slots=True)
class Token:
    """A token was drawn that is part of the answer (end-of-generation tokens are not)."""

    sequence: Sequence
    token: int
    logprob: TokenLogprob | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The one ending of a sequence."""

    sequence: Sequence
    reason: FinishReason
    error: WorkerError | None = None


Update = Token | Ended


class Scheduler:
    """Continuous batching over a fixed number of slots, first come, first served."""

    def __init__(self, limits: Limits, *, max_queue: int, prefill_chunk: int | None = None) -> None:
        """`max_queue` requests may wait beyond those that have a slot. `prefill_chunk` is the most prompt tokens of a
        step while others decode, so that a long prompt does not stall them."""
        self.limits = limits
        self.max_queue = max_queue
        self.prefill_chunk = min(prefill_chunk or limits.n_batch, limits.n_batch)
        self.slots = [Slot(i) for i in range(limits.n_slots)]
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._by_id: dict[str, Sequence] = {}
        self._operations: list[Operation] = []
        self._arrivals = 0
        self._tick = 0

    # --- what the engine asks -------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return not self._by_id and not self._operations

    @property
    def n_busy(self) -> int:
        return len(self.running)

    @property
    def n_waiting(self) -> int:
        return len(self.waiting)

    @property
    def n_held(self) -> int:
        """Tokens in memory, cached prefixes included. Tokens shared between slots count once for each."""
        return sum(len(slot.tokens) for slot in self.slots)

    # --- commands -------------------------------------------------------------------------------------------------

    def add(self, request: GenerationRequest) -> list[Update]:
        """Take a request in, or raise: ContextLengthExceeded, QueueFull, InvalidRequest."""
        if request.id in self._by_id:
            raise InvalidRequest(f"A request with the id {request.id!r} is already running.")
        if not request.prompt:
            raise InvalidRequest("The prompt has no tokens. Send at least one.", param="prompt")
        if len(request.prompt) >= self.limits.n_ctx:
            raise ContextLengthExceeded(len(request.prompt), self.limits.n_ctx)
        if self.n_waiting + self.n_busy >= self.limits.n_slots + self.max_queue:
            raise QueueFull(
                f"{self.n_busy} requests run and {self.n_waiting} wait, which is all this worker takes. Try again "
                "later, or raise MAX_QUEUE or N_PARALLEL.",
                retry_after_s=1,
            )
        sequence = Sequence(request, self._arrivals)
        self._arrivals += 1
        if request.max_tokens == 0:
            return [Ended(sequence, "length")]
        self._by_id[request.id] = sequence
        self.waiting.append(sequence)
        return []

    def finish(self, request_id: str, reason: FinishReason, error: WorkerError | None = None) -> list[Update]:
        """End a sequence now; its slot is free before the next step. Unknown ids (already ended) are nothing."""
        sequence = self._by_id.get(request_id)
        return [] if sequence is None else [self._end(sequence, reason, error)]

    def expire(self, now_s: float) -> list[Update]:
        """End every sequence whose deadline is past."""
        late = [s for s in self._by_id.values() if s.request.deadline_s is not None and s.request.deadline_s <= now_s]
        return [
            self._end(s, "error", DeadlineExceeded(f"The request's time was over after {s.n_generated} tokens."))
            for s in late
        ]

    def finish_all(self, reason: FinishReason, error: WorkerError | None = None) -> list[Update]:
        return [self._end(sequence, reason, error) for sequence in list(self._by_id.values())]

    # --- a step ---------------------------------------------------------------------------------------------------

    def schedule(self) -> Batch | None:
        """The next step, or None when there is nothing to do."""
        self._tick += 1
        self._admit()
        chunks = self._chunks()
        operations, self._operations = tuple(self._operations), []
        if not chunks and not operations:
            return None
        return Batch(operations, tuple(sorted(chunks, key=lambda chunk: chunk.slot)))

    def commit(self, batch: Batch, result: StepResult) -> list[Update]:
        """Take in what a step brought."""
        updates: list[Update] = []
        for request_id, refusal in result.refused:
            updates += self.finish(request_id, "error", refusal)
        if result.no_space:
            return updates + self._make_room_after_refusal(batch)
        if result.error is not None:
            return updates + self._fail(batch, result.error)
        for chunk in batch.chunks:
            slot = self.slots[chunk.slot]
            slot.tokens += chunk.tokens
            if slot.sequence is not None:
                slot.sequence.n_computed += len(chunk.tokens)
        for sampled in result.sampled:
            sequence = self.slots[sampled.slot].sequence
            if sequence is not None:
                updates += self._draw(sequence, sampled)
        return updates

    # --- admission ------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        passed: list[Sequence] = []
        while self.waiting and self.n_busy < self.limits.n_slots:
            sequence = self.waiting.popleft()
            if self._soon_cached(sequence):
                passed.append(sequence)
            elif not self._place(sequence):
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
                if min(shared, other.n_prompt - 1) >= other.n_computed + MIN_COPY_TOKENS:
                    return True
        return False

    def _place(self, sequence: Sequence) -> bool:
        placement = place(self.slots, sequence.tokens, self.limits, reuse=sequence.request.cache_prompt)
        if placement is None:
            return False
        if not self._room_for(sequence, placement.target):
            return False
        target, source, n_reused = placement.target, placement.source, placement.n_reused
        if source is not target:
            self._operations.append(Copy(source.id, target.id, n_reused))
        elif n_reused < len(target.tokens):
            self._operations.append(Truncate(target.id, n_reused))
        self._operations.append(Open(target.id, sequence.request, sequence.tokens))
        target.tokens = sequence.tokens[:n_reused]
        target.sequence = sequence
        target.last_used = source.last_used = self._tick
        sequence.slot = target
        sequence.n_computed = n_reused
        if sequence.n_cached is None:
            sequence.n_cached = n_reused
        self.running.append(sequence)
        self.running.sort(key=lambda running: running.arrival)
        return True

    def _room_for(self, sequence: Sequence, target: Slot) -> bool:
        """Would all tokens of the sequence fit beside the running ones, idle prefixes given up?"""
        if self.limits.partitioned:
            return True
        busy = sum(len(slot.tokens) for slot in self.slots if not slot.is_idle)
        if busy + len(sequence.tokens) + 1 > self.limits.n_cells:
            return False
        keep = {target.id}
        while self.n_held - len(target.tokens) + len(sequence.tokens) + 1 > self.limits.n_cells:
            if not self._forget_oldest(keep):
                break
        return True

    # --- building a batch -----------------------------------------------------------------------------------------

    def _chunks(self) -> list[Chunk]:
        """A token for each decoding sequence, then prompt tokens, oldest sequence first, up to the step's budget."""
        decoding = [s for s in self.running if s.is_decoding]
        budget = self.limits.n_batch - len(decoding)
        if decoding:
            budget = min(budget, self.prefill_chunk)
        room = self.limits.n_cells - self.n_held
        chunks: list[Chunk] = []
        for sequence in list(self.running):
            if sequence.slot is None:
                continue  # made to wait by an older one, above
            wanted = 1 if sequence.is_decoding else min(sequence.n_pending, budget)
            if wanted <= 0:
                continue
            if not self.limits.partitioned and room < wanted:
                room += self._reclaim(wanted - room, sequence)
            n = wanted if self.limits.partitioned else min(wanted, room)
            if n <= 0 or sequence.slot is None:
                continue
            chunks.append(self._chunk(sequence, sequence.slot, n))
            room -= n
            if not sequence.is_decoding:
                budget -= n
        return chunks

    def _chunk(self, sequence: Sequence, slot: Slot, n: int) -> Chunk:
        slot.last_used = self._tick
        start = sequence.n_computed
        tokens = sequence.tokens[start : start + n]
        return Chunk(slot.id, start, tokens, n == sequence.n_pending, sequence.n_generated)

    def _reclaim(self, wanted: int, sequence: Sequence) -> int:
        """Free memory: idle prefixes, oldest use first, then make sequences younger than this one wait."""
        before = self.n_held
        while before - self.n_held < wanted:
            if self._forget_oldest(set()):
                continue
            youngest = self.running[-1]
            self._make_wait(youngest)
            if youngest is sequence:
                break
        return before - self.n_held

    def _forget_oldest(self, keep: set[int]) -> bool:
        idle = [slot for slot in self.slots if slot.is_idle and slot.tokens and slot.id not in keep]
        if not idle:
            return False
        self._empty(min(idle, key=lambda slot: slot.last_used))
        return True

    def _make_wait(self, sequence: Sequence) -> None:
        """Give its memory back; it starts again later with all its tokens, so that nothing of it is lost."""
        slot = self._release(sequence)
        self._empty(slot)
        sequence.n_computed = 0
        self.waiting.appendleft(sequence)

    def _empty(self, slot: Slot) -> None:
        slot.tokens = []
        self._operations.append(Truncate(slot.id, 0))

    # --- taking results in ----------------------------------------------------------------------------------------

    def _draw(self, sequence: Sequence, sampled: Sampled) -> Iterable[Update]:
        sequence.tokens.append(sampled.token)
        if sampled.token in self.limits.eog and not sequence.request.sampling.ignore_eos:
            return [self._end(sequence, "stop")]
        updates: list[Update] = [Token(sequence, sampled.token, sampled.logprob)]
        limit = sequence.request.max_tokens
        if (limit is not None and sequence.n_generated >= limit) or len(sequence.tokens) >= self.limits.n_ctx:
            updates.append(self._end(sequence, "length"))
        return updates

    def _make_room_after_refusal(self, batch: Batch) -> list[Update]:
        """The memory had no room though the count said so. Give up a prefix, or make the youngest wait, or end it."""
        if self._forget_oldest(set()):
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
            slot = self.slots[chunk.slot]
            if slot.sequence is not None:
                updates.append(self._end(slot.sequence, "error", error))
            self._empty(slot)
        return updates

    def _end(self, sequence: Sequence, reason: FinishReason, error: WorkerError | None = None) -> Ended:
        del self._by_id[sequence.id]
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self._release(sequence)
        self._operations.append(Close(sequence.id))
        return Ended(sequence, reason, error)

    def _release(self, sequence: Sequence) -> Slot:
        """The slot is free; its tokens stay as a cached prefix."""
        slot = sequence.slot
        assert slot is not None
        slot.sequence = None
        sequence.slot = None
        self.running.remove(sequence)
        return slot
