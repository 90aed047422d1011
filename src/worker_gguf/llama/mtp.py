"""Guesses tokens with the MTP layer of the served model: a second context, which reads along with the first one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

import numpy as np

from worker_gguf.engine.batch import Chunk
from worker_gguf.engine.drafter import DraftRequest, Drafts, DraftStep
from worker_gguf.engine.params import MTP_UNREAD, ContextParams
from worker_gguf.engine.runner import SpecialTokens
from worker_gguf.errors import ModelInvalid
from worker_gguf.llama.candidates import Floats
from worker_gguf.llama.context import Context, DecodeFailed, NoSpace
from worker_gguf.llama.draft import most_likely
from worker_gguf.llama.model import Model

__all__ = ["MtpDrafter"]

logger = logging.getLogger(__name__)

# After a step with guesses, a slot has at most so many unread tokens: reading them belongs to the cost of guesses.
_CURRENT = 17


class MtpDrafter:
    """An MTP layer takes a token and the hidden row of the token before it, and guesses the token after it.

    So its context follows the model's: whatever that one computes, copies or cuts, this one does, too. The hidden rows
    of the latest tokens wait in main memory and are read with the next guess, or when there are `MTP_UNREAD`. Those of
    prompts are read at once. A row that is unknown, after a prefix was cut or loaded, counts as zero: then guesses may
    be worse, and nothing else.
    """

    def __init__(self, context: Context, target: Context) -> None:
        """`context` was opened with `is_mtp`. Lets `target` give its hidden rows, and follows it."""
        self._eog: frozenset[int] = frozenset()
        self._context = context
        self._slots = [_Slot(context.n_embd) for _ in range(context.params.n_parallel)]
        self._has_failed = False
        context.give_hidden_rows()
        target.give_hidden_rows()
        target.follower = self

    @classmethod
    def open(cls, model: Model, params: ContextParams, target: Context, bos: int) -> MtpDrafter:
        """Open the context of the model's MTP layer beside `target`, and compute the token `bos` with it.

        Raises ModelInvalid, or NotEnoughMemory.
        """
        context = Context(model, params, is_mtp=True)
        drafter = cls(context, target)
        try:
            drafter.warm_up(bos)
        except BaseException:
            context.close()
            raise
        return drafter

    @property
    def n_ctx(self) -> int:
        return min(self._context.params.n_ctx, self._context.n_ctx_seq)

    @property
    def reads_along(self) -> bool:
        return True

    def close(self) -> None:
        self._context.close()

    # --- the model's context --------------------------------------------------------------------------------------

    def computed(self, chunks: Sequence[Chunk], hidden: Floats) -> None:
        if self._has_failed:
            return
        try:
            at = 0
            for chunk in chunks:
                self._take(chunk, hidden[at : at + len(chunk.tokens)])
                at += len(chunk.tokens)
        except NoSpace:
            self._forget_all()
        except DecodeFailed as error:
            self._fail(error)

    def cut(self, slot: int, n_tokens: int) -> None:
        if n_tokens < self._slots[slot].end:
            self._go_to(slot, n_tokens)

    def copied(self, source: int, target: int, n_tokens: int) -> None:
        self._slots[target].become(self._slots[source])
        self._context.copy(source, target, self._slots[source].n_read)
        self.cut(target, n_tokens)

    def _take(self, chunk: Chunk, hidden: Floats) -> None:
        """Note the tokens of a chunk, each with the hidden row before it."""
        self._go_to(chunk.slot, chunk.start)
        slot, n = self._slots[chunk.slot], len(chunk.tokens)
        if slot.n_unread + n > MTP_UNREAD:
            self._read(range(len(self._slots)))  # together: a pass over one slot takes nearly as long
        if n > MTP_UNREAD:
            self._compute([(chunk, np.vstack([slot.before, hidden[:-1]]))])
            slot.note_read(chunk.start + n, hidden[-1])
        else:
            slot.add(chunk.tokens, hidden)

    def _go_to(self, number: int, n_tokens: int) -> None:
        """Make the slot end after `n_tokens`. If it has fewer, it is forgotten and goes on from there."""
        slot = self._slots[number]
        if n_tokens < slot.n_read or n_tokens > slot.end:
            self._context.truncate(number, n_tokens if n_tokens < slot.n_read else 0)
        slot.go_to(n_tokens)

    # --- guesses --------------------------------------------------------------------------------------------------

    def adopt(self, special: SpecialTokens) -> None:
        self._eog = special.eog

    def draft(self, requests: Sequence[DraftRequest], most_read: int | None = None) -> Drafts:
        if self._has_failed or not requests:
            return Drafts()
        steps: list[DraftStep] = []
        try:
            return Drafts(self._draft(requests, steps), steps=tuple(steps))
        except NoSpace:
            self._forget_all()
        except DecodeFailed as error:
            self._fail(error)
        return Drafts(steps=tuple(steps))

    def warm_up(self, token: int) -> None:
        """Guess two tokens, so that graphs are built before the first request. Raises ModelInvalid if this fails."""
        self.draft([DraftRequest(0, [token], 2)])
        self._forget_all()
        if self._has_failed:
            raise ModelInvalid("The MTP layer could not be computed; see the log. Unset SPECULATION.")

    def _draft(self, requests: Sequence[DraftRequest], steps: list[DraftStep]) -> dict[int, tuple[int, ...]]:
        wanted = {request.slot: request.n for request in requests}
        for request in requests:
            self._go_to(request.slot, len(request.tokens) - 1)
        if sum(self._slots[slot].n_unread + 1 for slot in wanted) > self._context.params.n_batch:
            started = time.perf_counter()
            n_unread = self._read(wanted)
            steps.append(DraftStep(0, n_unread, time.perf_counter() - started))
        requests = sorted(requests, key=lambda request: request.slot)
        chunks, rows = [], []
        for request in requests:
            slot = self._slots[request.slot]
            chunks.append(Chunk(request.slot, slot.n_read, [*slot.unread, request.tokens[-1]], n_outputs=1))
            rows.append(slot.before)
        guesses: dict[int, list[int]] = {request.slot: [] for request in requests}
        while chunks:
            drawn, hidden = self._guess(chunks, np.vstack(rows), steps)
            ends = [chunk.start + len(chunk.tokens) for chunk in chunks]
            slots = [chunk.slot for chunk in chunks]
            chunks, rows = [], []
            for slot_id, end, token, row in zip(slots, ends, drawn, hidden, strict=True):
                if token in self._eog:
                    continue  # the draw after the last guess gives the end of generation without a guess
                guesses[slot_id].append(token)
                if len(guesses[slot_id]) < wanted[slot_id]:
                    chunks.append(Chunk(slot_id, end, [token], n_outputs=1))
                    rows.append(row[None])
        for request in requests:
            slot = self._slots[request.slot]
            slot.note_read(slot.end, slot.before[-1])
            # Their rows were guessed, too. The right ones come from the model with the next step.
            self._context.truncate(request.slot, slot.end)
        return {slot: tuple(tokens) for slot, tokens in guesses.items() if tokens}

    def _guess(self, chunks: list[Chunk], rows: Floats, steps: list[DraftStep]) -> tuple[list[int], Floats]:
        """Compute the chunks and return the most likely next token of each, and the hidden row of that."""
        started = time.perf_counter()
        drawn = most_likely(self._context.decode(chunks, rows), self._context.n_vocab)
        last = np.cumsum([len(chunk.tokens) for chunk in chunks]) - 1
        hidden = self._context.hidden_rows(len(rows))[last]
        n_read = len(rows) - len(chunks)
        n_prompt = n_read if any(len(chunk.tokens) > _CURRENT for chunk in chunks) else 0
        steps.append(DraftStep(len(chunks), n_prompt, time.perf_counter() - started))
        return drawn, hidden

    def _read(self, numbers: Iterable[int]) -> int:
        """Read the tokens of slots that wait for it, and return their number."""
        slots = {number: slot for number in numbers if (slot := self._slots[number]).n_unread}
        n_unread = sum(slot.n_unread for slot in slots.values())
        self._compute(
            (Chunk(number, slot.n_read, slot.unread, n_outputs=0), slot.before[:-1]) for number, slot in slots.items()
        )
        for slot in slots.values():
            slot.note_read(slot.end, slot.before[-1])
        return n_unread

    def _compute(self, parts: Iterable[tuple[Chunk, Floats]]) -> None:
        """Compute chunks with the hidden rows before their tokens, as many tokens at once as the context takes."""
        chunks: list[Chunk] = []
        rows: list[Floats] = []
        free = most = self._context.params.n_batch
        for chunk, before in parts:
            at = 0
            while at < len(chunk.tokens):
                tokens = chunk.tokens[at : at + free]
                chunks.append(Chunk(chunk.slot, chunk.start + at, tokens, n_outputs=0))
                rows.append(before[at : at + len(tokens)])
                at, free = at + len(tokens), free - len(tokens)
                if not free:
                    self._context.decode(chunks, np.vstack(rows))
                    chunks, rows, free = [], [], most
        if chunks:
            self._context.decode(chunks, np.vstack(rows))

    def _forget_all(self) -> None:
        for number, slot in enumerate(self._slots):
            self._context.truncate(number, 0)
            slot.go_to(0)

    def _fail(self, error: DecodeFailed) -> None:
        self._has_failed = True
        logger.error("MTP layer failed", extra={"reason": f"{error} Answers go on without it."})


class _Slot:
    """What the drafter knows of one slot: `n_read` tokens are in its context, and `n_unread` wait after them.

    A token waits with the hidden row before it, and the row before the next token is that of the last one.
    """

    def __init__(self, n_embd: int) -> None:
        self.n_read = self.n_unread = 0
        self._tokens = [0] * MTP_UNREAD
        self._before: Floats = np.zeros((MTP_UNREAD + 1, n_embd), np.float32)

    @property
    def end(self) -> int:
        return self.n_read + self.n_unread

    @property
    def unread(self) -> list[int]:
        return self._tokens[: self.n_unread]

    @property
    def before(self) -> Floats:
        """The hidden rows before each unread token and before the next one, with the shape (n_unread + 1, n_embd)."""
        return self._before[: self.n_unread + 1]

    def add(self, tokens: list[int], hidden: Floats) -> None:
        at, end = self.n_unread, self.n_unread + len(tokens)
        self._tokens[at:end] = tokens
        self._before[at + 1 : end + 1] = hidden
        self.n_unread = end

    def go_to(self, n_tokens: int) -> None:
        """End after `n_tokens`. With fewer than are read, or more than there are, the last hidden row is unknown."""
        if self.n_read <= n_tokens <= self.end:
            self.n_unread = n_tokens - self.n_read
        else:
            self.note_read(n_tokens, np.zeros_like(self._before[0]))

    def note_read(self, n_tokens: int, last: Floats) -> None:
        """Note that `n_tokens` are in the context and none waits. `last` is the hidden row of the last one."""
        self.n_read, self.n_unread = n_tokens, 0
        self._before[0] = last

    def become(self, other: _Slot) -> None:
        self.n_read, self.n_unread = other.n_read, other.n_unread
        self._tokens[:] = other._tokens
        self._before[:] = other._before
