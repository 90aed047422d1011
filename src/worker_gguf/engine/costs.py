"""What a step costs in seconds, learned from the results of earlier steps. Reads no clock."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from worker_gguf.engine.batch import Batch, Chunk, StepResult

__all__ = ["StepCosts", "Work", "passes"]

# The weight of the newest measurement. Single steps are disturbed by other processes, sometimes for ten times as long.
_NEWEST = 0.25
# The cost of a part of a prompt next to other rows grows with each part, because each looks back on more tokens.
_NEWEST_PART = 0.5
# The cost of prompts follows the latest tokens, about so many.
_LATEST_TOKENS = 4096
# A step of fewer prompt tokens says little about longer prompts: most of its time may be a fixed cost.
_LEAST_TOKENS = 64
# A measurement is forgotten after so many steps, because contexts grow and the machine changes.
_MOST_AGE = 1024


class Work(NamedTuple):
    """What a step computes: rows, further tokens of prompts, tokens of prompts that are scored, and forced tokens.

    Forced tokens are those that a grammar added to an answer. Like most of a prompt, they need no rows.
    """

    n_rows: int
    n_prompt: int
    n_scored: int = 0
    n_forced: int = 0

    @classmethod
    def of(cls, chunks: Iterable[Chunk]) -> Work:
        n_rows = n_prompt = n_scored = n_forced = 0
        for chunk in chunks:
            n_rows += chunk.n_outputs - len(chunk.scored)
            n_prompt += chunk.n_prompt
            n_scored += len(chunk.scored)
            n_forced += len(chunk.tokens) - chunk.n_outputs - chunk.n_prompt
        return cls(n_rows, n_prompt, n_scored, n_forced)


class _Measured(NamedTuple):
    """The mean seconds of a step, and the number of the step that was measured last."""

    seconds: float
    at: int


class StepCosts:
    """Estimates the duration of a step from its rows and its prompt tokens.

    A row is a token whose logits are computed: it passes through the output matrix, which a prompt token does not. The
    cost of rows is not linear. As long as the weights must be read from memory for each step, further rows cost little.
    """

    def __init__(self, *, partitioned: bool = False) -> None:
        """With `partitioned`, each slot has its own part of the memory, and a step may have several passes."""
        self._partitioned = partitioned
        self._rows: dict[int, _Measured] = {}
        self._known: list[int] = []  # the numbers of rows that were measured, sorted
        self._n_steps = 0
        self.total_seconds = 0.0
        """The sum of all measured seconds."""
        self._prompt_tokens = 0.0  # the latest ones, with fading weights
        self._prompt_seconds = 0.0
        self.per_part_token: float | None = None
        """Seconds that a prompt token added to the latest steps with other rows; None if there was no such step."""
        self.per_forced_token: float | None = None
        """Seconds that a forced token added to the latest steps; None if there was none."""

    def learn(self, batch: Batch, result: StepResult) -> None:
        """Learn from the result of a step."""
        seconds = result.decode_seconds + result.sample_seconds
        if self._partitioned and _has_further_passes(batch.chunks):
            self.total_seconds += seconds
        elif batch.chunks:
            work = Work.of(batch.chunks)
            self.note(work.n_rows, work.n_prompt, seconds, work.n_scored, work.n_forced)

    def note(self, n_rows: int, n_prompt: int, seconds: float, n_scored: int = 0, n_forced: int = 0) -> None:
        """Learn from a step with this `Work`.

        A scored token costs more than other tokens of prompts and than a row that draws, because all probabilities of
        its row are computed. So it only teaches what parts of prompts add to a step.
        """
        self._n_steps += 1
        self.total_seconds += seconds
        if self._n_steps % _MOST_AGE == 0:
            self._forget_old()
        forced_seconds = n_forced * (self.per_forced_token or 0.0)
        if n_prompt or n_scored:
            self._note_prompt(n_rows, n_prompt, max(seconds - forced_seconds, 0.1 * seconds), n_scored)
            return
        if n_forced and (of_rows := self.of_rows(n_rows)) is not None:
            self.per_forced_token = _mean(self.per_forced_token, max(0.0, seconds - of_rows) / n_forced, _NEWEST)
        if n_rows:
            self._note_rows(n_rows, max(seconds - forced_seconds, 0.1 * seconds))

    def _note_rows(self, n_rows: int, seconds: float) -> None:
        measured = self._rows.get(n_rows)
        if measured is None:
            insort(self._known, n_rows)
        mean = _mean(None if measured is None else measured.seconds, seconds, _NEWEST)
        self._rows[n_rows] = _Measured(mean, self._n_steps)

    def of_rows(self, n_rows: int) -> float | None:
        """Return the seconds of a step with `n_rows` rows and no prompt; None if nothing was measured yet.

        Between two measured numbers of rows, the cost is linear. Beyond them it is that of the nearest one: a low
        guess, which is corrected as soon as such a step is tried.
        """
        known = self._known
        if not known:
            return None
        above = bisect_right(known, n_rows)
        if above == 0:
            return self._rows[known[0]].seconds
        low = known[above - 1]
        if low == n_rows or above == len(known):
            return self._rows[low].seconds
        high = known[above]
        share = (n_rows - low) / (high - low)
        return (1 - share) * self._rows[low].seconds + share * self._rows[high].seconds

    def of_decoding(self, n_rows: int, n_forced: int, pending: Mapping[int, int]) -> float | None:
        """Return the seconds of the decoding part of a step; None if nothing was measured yet.

        `pending` has the number of tokens of each decoding slot, in the order of the slots. In a partitioned memory,
        they may be several passes.
        """
        if self._partitioned and len(pending) > 1:
            return sum(self.of_rows(size) or 0.0 for size in passes(pending)) or None
        seconds = self.of_rows(n_rows)
        return None if seconds is None else seconds + n_forced * (self.per_forced_token or 0.0)

    @property
    def per_prompt_token(self) -> float | None:
        """Seconds that a prompt token adds to a step; None if too few were computed yet."""
        return self._prompt_seconds / self._prompt_tokens if self._prompt_tokens else None

    def _note_prompt(self, n_rows: int, n_prompt: int, seconds: float, n_scored: int) -> None:
        n_tokens = n_prompt + n_scored
        of_rows = self.of_rows(n_rows)
        added = max(seconds - (of_rows or 0.0), 0.1 * seconds)
        if n_rows and of_rows is not None:
            self.per_part_token = _mean(self.per_part_token, added / n_tokens, _NEWEST_PART)
        if n_scored:
            return
        if n_tokens >= _LEAST_TOKENS or (of_rows is not None and not self._prompt_tokens):
            keep = max(0.0, 1 - n_tokens / _LATEST_TOKENS)
            self._prompt_tokens = keep * self._prompt_tokens + n_tokens
            self._prompt_seconds = keep * self._prompt_seconds + added

    def _forget_old(self) -> None:
        for n_rows in [n for n in self._known if self._n_steps - self._rows[n].at > _MOST_AGE]:
            self._known.remove(n_rows)
            del self._rows[n_rows]


def passes(pending: Mapping[int, int]) -> list[int]:
    """Return the number of tokens in each pass in which llama.cpp computes the slots of a partitioned memory.

    `pending` has the number of tokens of each slot, in the order of the slots. A pass has the same number of tokens of
    each of several neighbouring slots (llama-batch.cpp, `split_equal`).
    """
    left, sizes = dict(pending), []
    while left:
        slots = list(left)
        n_slots = _n_neighbours(slots)
        width = min(left[slot] for slot in slots[:n_slots])
        sizes.append(width * n_slots)
        for slot in slots[:n_slots]:
            left[slot] -= width
            if not left[slot]:
                del left[slot]
    return sizes


def _n_neighbours(slots: Sequence[int]) -> int:
    """Return how many of these slots, from the first one on, are neighbours."""
    return next((n for n in range(1, len(slots)) if slots[n] != slots[n - 1] + 1), len(slots))


def _has_further_passes(chunks: Iterable[Chunk]) -> bool:
    """Return whether decoding slots of a partitioned memory are computed in more passes than they have neighbourhoods.

    The smaller of several passes would teach a wrong cost of the rows of one.
    """
    pending = {chunk.slot: len(chunk.tokens) for chunk in chunks if chunk.is_decoding}
    return len(passes(pending)) > len(passes(dict.fromkeys(pending, 1)))


def _mean(old: float | None, new: float, weight: float) -> float:
    """Return the mean with a new measurement, of which no more than twice the mean counts."""
    return old + weight * (min(new, 2 * old) - old) if old else new
