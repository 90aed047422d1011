"""Decides how many guessed tokens the decoding sequences add to a step, so that the step is worth its time."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

from worker_gguf.engine.costs import StepCosts
from worker_gguf.engine.lookup import Chances, Lookup
from worker_gguf.engine.runner import Limits
from worker_gguf.engine.sequence import Sequence

__all__ = ["Speculation"]

# A guess is added if its chance is at least one of these. All are tried, and the one that promises most is taken.
_LEAST_CHANCES = (0.9, 0.75, 0.6, 0.45, 0.3, 0.15)
# The estimates are not exact, so a gain must be at least this large.
_LEAST_GAIN = 1.05
_NO_GUESSES: dict[Sequence, Tokens[int]] = {}


class Speculation:
    """Guesses for the sequences of one engine.

    A guess costs a row in the step and gains a token if it and all guesses before it are right. Both are known: the
    cost of rows from the steps so far, the chances from each sequence's own tokens.
    """

    def __init__(self, limits: Limits, costs: StepCosts) -> None:
        self._limits = limits
        self._costs = costs
        self._common = Chances()
        self._lookups: dict[str, Lookup] = {}

    def note(self, sequence: Sequence, n_new: int) -> None:
        """Learn from the tokens that a step drew."""
        lookup = self._lookups.get(sequence.id)
        if lookup is None:
            self._lookups[sequence.id] = Lookup(sequence.tokens, self._common)
        else:
            lookup.note(n_new)

    def forget(self, sequence: Sequence) -> None:
        self._lookups.pop(sequence.id, None)

    def choose(self, decoding: list[Sequence], n_rows: int, seconds: float) -> dict[Sequence, Tokens[int]]:
        """Return the guesses of each sequence for this step.

        `n_rows` are the rows of the step without guesses. `seconds` is what the prompts in it add.
        """
        base = self._costs.of_rows(n_rows)
        free = self._limits.n_rows - n_rows
        if not base or free <= 0:
            return _NO_GUESSES
        offers: list[tuple[Sequence, Tokens[int], list[float]]] = []
        for sequence in decoding:
            lookup = self._lookups.get(sequence.id)
            if lookup is not None and (most := self._most(sequence, free)) > 0 and (found := lookup.guesses(most)):
                offers.append((sequence, found, lookup.chances(len(found))))
        if not offers:
            return _NO_GUESSES
        best, least = _LEAST_GAIN * n_rows / (base + seconds), 0.0
        for limit in _LEAST_CHANCES:
            taken = [chance for _, _, chances in offers for chance in chances if chance >= limit]
            if not taken or len(taken) > free:
                continue
            rate = (n_rows + sum(taken)) / ((self._costs.of_rows(n_rows + len(taken)) or base) + seconds)
            if rate > best:
                best, least = rate, limit
        if not least:
            return _NO_GUESSES
        chosen = {s: found[: sum(chance >= least for chance in chances)] for s, found, chances in offers}
        return {sequence: found for sequence, found in chosen.items() if found}

    def _most(self, sequence: Sequence, free: int) -> int:
        """Return how many guesses can still be part of the answer, if one more token is drawn after them."""
        left = self._limits.n_ctx - len(sequence.tokens) - 1
        if (limit := sequence.request.max_tokens) is not None:
            left = min(left, limit - sequence.n_generated - 1)
        return min(left, free)
