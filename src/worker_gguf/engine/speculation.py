"""Decides how many guessed tokens the decoding sequences add to a step, so that the step is worth its time."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

from msgspec import Struct

from worker_gguf.engine.batch import Chunk
from worker_gguf.engine.costs import StepCosts, Work
from worker_gguf.engine.drafter import Drafter
from worker_gguf.engine.drafting import LEAST_CHANCES, MOST_GUESSES, Candidate, Drafting, StepLoad
from worker_gguf.engine.lookup import Chances, Lookup, Offer
from worker_gguf.engine.memory import Memory
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.sequence import Sequence

__all__ = ["Drafted", "Speculation"]

# The estimates are not exact, so a gain must be at least this large.
_LEAST_GAIN = 1.05


class Drafted(Struct, frozen=True):
    """What a draft model did for one step: the slots that got guesses from it, and its seconds."""

    slots: frozenset[int] = frozenset()
    seconds: float = 0.0


_NOTHING = Drafted()


class Speculation:
    """Guesses for the sequences of one engine: from their own tokens, or else from a draft model.

    A guess costs a row in the step and gains a token if it and all guesses before it are right. Both are known: the
    cost of rows from the steps so far, the chances from each sequence's own tokens.
    """

    def __init__(self, limits: Limits, costs: StepCosts, drafter: Drafter | None = None) -> None:
        self._limits = limits
        self._costs = costs
        self._common = Chances()
        self._lookups: dict[str, Lookup] = {}
        self._drafting = Drafting(drafter, costs, _LEAST_GAIN) if drafter is not None else None
        self._drafted = _NOTHING

    def note(self, sequence: Sequence, n_new: int) -> None:
        """Learn from the tokens that a step drew."""
        lookup = self._lookups.get(sequence.id)
        if lookup is None:
            self._lookups[sequence.id] = Lookup(sequence.tokens, sequence.forced, self._common)
        else:
            lookup.note(n_new)
        if self._drafting is not None:
            self._drafting.note(sequence, n_new)

    def forget(self, sequence: Sequence) -> None:
        self._lookups.pop(sequence.id, None)
        if self._drafting is not None:
            self._drafting.forget(sequence)

    def take_drafted(self) -> Drafted:
        """Return what the draft model did since the last call."""
        drafted, self._drafted = self._drafted, _NOTHING
        return drafted

    def guesses(self, chunks: dict[Sequence, Chunk], memory: Memory) -> dict[Sequence, Tokens[int]]:
        """Return guesses for the decoding sequences of a step, if there is room for them without making another wait.

        `chunks` has the step without guesses.
        """
        decoding = [sequence for sequence, chunk in chunks.items() if chunk.is_decoding and chunk.n_outputs]
        work = Work.of(chunks.values())
        n_computed = sum(len(chunk.tokens) for chunk in chunks.values())
        n_outputs = sum(chunk.n_outputs for chunk in chunks.values())
        room = memory.room - n_computed
        idle = sum(len(slot.tokens) for slot in memory.slots if slot.is_idle)
        free = min(self._limits.n_batch - n_computed, self._limits.n_rows - n_outputs, room + idle)
        costs = self._costs
        if not decoding or not costs.of_rows(work.n_rows) or free <= 0:
            return {}
        prompt_seconds = (work.n_prompt + work.n_scored) * (costs.per_prompt_token or 0.0)
        computed = {chunk.slot: len(chunk.tokens) for chunk in chunks.values() if chunk.is_decoding}
        pending = dict(sorted(computed.items()))
        load = StepLoad(work.n_rows, work.n_forced, pending, n_outputs - work.n_scored, prompt_seconds, free)
        guesses = self._choose(decoding, load.estimated(costs))
        n_guesses = sum(map(len, guesses.values()))
        while n_guesses > memory.room - n_computed:
            if not memory.forget_oldest():
                return {}
        return guesses

    def _choose(self, decoding: list[Sequence], load: StepLoad) -> dict[Sequence, Tokens[int]]:
        """Return the guesses of each sequence for this step. `load` is the step without guesses."""
        found, n_right = self._look_up(decoding, load)
        drafting = self._drafting
        if drafting is None:
            return found
        others = [sequence for sequence in decoding if sequence not in found and drafting.can_guess(sequence)]
        if drafting.rests(len(others)):
            return found
        if found:
            counts = {sequence.slot_id: len(tokens) for sequence, tokens in found.items()}
            load = load.with_guesses(counts, n_right, self._costs)
        return found | self._draft(drafting, [self._candidate(sequence, load.free) for sequence in others], load)

    def _look_up(self, decoding: list[Sequence], load: StepLoad) -> tuple[dict[Sequence, Tokens[int]], float]:
        """Return the guesses from the sequences' own tokens, and how many of them are expected to be right."""
        offers: list[tuple[Sequence, Offer]] = []
        for sequence in decoding:
            lookup = self._lookups.get(sequence.id)
            most = min(self._left(sequence), load.free)
            offer = lookup.offer(most) if lookup is not None and most > 0 else None
            # Any three equal tokens make an offer. Where a draft model guesses better, it goes on.
            better = 0.0 if self._drafting is None else self._drafting.chance_if_on(sequence)
            if offer is not None and offer.chances[0] >= better:
                offers.append((sequence, offer))
        best, best_counts, n_right = _LEAST_GAIN * load.n_tokens / load.seconds, None, 0.0
        for limit in LEAST_CHANCES:
            counts = [offer.count(limit) for _, offer in offers]
            if not 0 < sum(counts) <= load.free:
                continue
            gain = sum(sum(offer.gains[:n]) for (_, offer), n in zip(offers, counts, strict=True))
            slots = {sequence.slot_id: n for (sequence, _), n in zip(offers, counts, strict=True)}
            guessing = load.with_guesses(slots, gain, self._costs)
            rate = guessing.n_tokens / guessing.seconds
            if rate > best:
                best, best_counts, n_right = rate, counts, gain
        if best_counts is None:
            return {}, 0.0
        taken = zip(offers, best_counts, strict=True)
        return {sequence: offer.tokens[:n] for (sequence, offer), n in taken if n}, n_right

    def _draft(self, drafting: Drafting, candidates: list[Candidate], load: StepLoad) -> dict[Sequence, Tokens[int]]:
        before = drafting.seconds
        found = drafting.choose(candidates, load)
        slots = frozenset(sequence.slot_id for sequence in found)
        self._drafted = Drafted(slots, drafting.seconds - before)
        return found

    def _candidate(self, sequence: Sequence, free: int) -> Candidate:
        left = self._left(sequence)
        return Candidate(sequence, max(0, min(left, free, MOST_GUESSES)), left)

    def _left(self, sequence: Sequence) -> int:
        """Return how many guesses can still be part of the answer, if one more token is drawn after them."""
        left = self._limits.n_ctx - len(sequence.tokens) - 1
        if (limit := sequence.request.max_tokens) is not None:
            left = min(left, limit - sequence.n_generated - 1)
        return left
