"""Decides for which sequences a draft model guesses, and how many tokens, so that this is worth its time."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Tokens

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.engine.costs import StepCosts
from worker_gguf.engine.drafter import Drafter, DraftRequest, Drafts
from worker_gguf.engine.sequence import Sequence

__all__ = ["LEAST_CHANCES", "MOST_GUESSES", "PROBE_SHARE", "Candidate", "Drafting", "StepLoad"]

LEAST_CHANCES = (0.9, 0.75, 0.6, 0.45, 0.3, 0.15)
"""A guess is added if its chance is at least one of these. All are tried, and the one that promises most is taken."""
MOST_GUESSES = 16
"""The most guesses for a sequence in one step."""
PROBE_SHARE = 0.01
"""The part of the engine's time that tries whether guesses, which were not worth it, are worth it now."""
# The chance of a guess before any was checked.
_FIRST_CHANCE = 0.7
# The weight of the newest guess in the chance of its sequence, and in that of all sequences.
_NEWEST = 0.08
# An answer whose length is unknown is expected to go on for as long as it has gone on, but for at least so many tokens.
_LEAST_EXPECTED = 64
# While guesses are off, they are considered again after so many steps, or when the number of sequences changes.
_REST = 8
# Fewer tokens say little about the cost of a token of a prompt.
_LEAST_PROMPT = 32
# The draft model reads so many tokens in a step as long as that cost is unknown.
_FIRST_READ = 64
# A sequence for which the draft model guessed in the last step lacks at most so many tokens there.
_CURRENT = MOST_GUESSES + 1


class StepLoad(Struct, frozen=True):
    """A step without drafted guesses: its rows, the tokens that it is expected to draw, and its seconds.

    `pending` has the number of tokens of each decoding slot, of which `n_forced` need no row. `prompt_seconds` is the
    part of the seconds that prompts take. `free` is the number of rows that can be added. `estimated` sets `seconds`.
    """

    n_rows: int
    n_forced: int
    pending: Mapping[int, int]
    n_tokens: float
    prompt_seconds: float
    free: int
    seconds: float = 0.0

    def estimated(self, costs: StepCosts) -> StepLoad:
        """Return the same step with its seconds."""
        decoding = costs.of_decoding(self.n_rows, self.n_forced, self.pending) or 0.0
        return replace(self, seconds=decoding + self.prompt_seconds)

    def with_guesses(self, guesses: Mapping[int, int], n_right: float, costs: StepCosts) -> StepLoad:
        """Add so many guesses to the slots, `n_right` of which are expected to be right, and estimate the seconds."""
        n_guesses = sum(guesses.values())
        guessing = replace(
            self,
            n_rows=self.n_rows + n_guesses,
            pending={slot: n + guesses.get(slot, 0) for slot, n in self.pending.items()},
            n_tokens=self.n_tokens + n_right,
            free=self.free - n_guesses,
        )
        return guessing.estimated(costs)


class Candidate(Struct, frozen=True):
    """A sequence that may get at most `most` guesses, and whose answer has at most `left` more tokens."""

    sequence: Sequence
    most: int
    left: int


class _State(Struct):
    """What is known of one sequence. The draft model holds its first `n_held` tokens in `slot`.

    `chance` is the chance of a guess if all guesses before it are right; None before the first was checked. `is_on`
    tells that its last step had guesses because they were worth it.
    """

    chance: float | None = None
    slot: int = -1
    n_held: int = 0
    n_probes: int = 0
    is_on: bool = False


class Drafting:
    """Guesses of a draft model for the sequences of one engine.

    A guess costs a row in the step and a row in a step of the draft model, and gains a token if it and all guesses
    before it are right. The costs are measured. The chance is a mean over the latest guesses of the sequence, and of
    all sequences where it has none. If no number of guesses promises more tokens per second than the plain step, there
    are none. Then one guess is tried now and then, as long as all trials take less than `PROBE_SHARE` of the time.
    """

    def __init__(self, drafter: Drafter, costs: StepCosts, least_gain: float) -> None:
        """`costs` are those of the served model. `least_gain` is the gain from which guesses are worth it."""
        self._drafter = drafter
        self._costs = costs
        self._draft_costs = StepCosts()
        self._least_gain = least_gain
        self._common = _FIRST_CHANCE
        self._states: dict[str, _State] = {}
        self._unchecked: dict[str, Tokens[int]] = {}
        self._probe_seconds = 0.0
        self._rest = self._n_resting = 0
        self.seconds = 0.0
        """The seconds that the draft model has taken."""

    # --- learning -------------------------------------------------------------------------------------------------

    def note(self, sequence: Sequence, n_new: int) -> None:
        """Learn from the tokens that a step drew."""
        guesses = self._unchecked.pop(sequence.id, ())
        for guess, token in zip(guesses, sequence.tokens[len(sequence.tokens) - n_new :], strict=False):
            self._note_guess(self._states[sequence.id], is_right=guess == token)
            if guess != token:
                break

    def forget(self, sequence: Sequence) -> None:
        self._unchecked.pop(sequence.id, None)
        self._states.pop(sequence.id, None)

    def chance_if_on(self, sequence: Sequence) -> float:
        """Return the chance of a guess if the sequence has guesses at the moment, else 0."""
        state = self._states.get(sequence.id)
        return self._chance(state) if state is not None and state.is_on and self.can_guess(sequence) else 0.0

    def _note_guess(self, state: _State, *, is_right: bool) -> None:
        state.chance = self._chance(state)
        state.chance += _NEWEST * (is_right - state.chance)
        self._common += _NEWEST * (is_right - self._common)

    def _chance(self, state: _State) -> float:
        return self._common if state.chance is None else state.chance

    # --- a step ---------------------------------------------------------------------------------------------------

    def can_guess(self, sequence: Sequence) -> bool:
        """Return whether the sequence, which decodes, can get guesses in this step.

        What reads along has not seen forced tokens before the model has computed them. What does not cannot read
        images.
        """
        return sequence.n_pending == 1 if self._drafter.reads_along else not sequence.request.runs

    def rests(self, n_sequences: int) -> bool:
        """Return whether this step, with so many sequences, needs no call of `choose`, because guesses are off."""
        self._rest -= 1
        return self._rest > 0 and n_sequences == self._n_resting

    def choose(self, candidates: list[Candidate], load: StepLoad) -> dict[Sequence, Tokens[int]]:
        """Return the guesses of the candidates for this step. All of them can get guesses."""
        self._unchecked.clear()
        self._rest = 0
        n_given = len(candidates)
        candidates = [c for c in candidates if len(c.sequence.tokens) + MOST_GUESSES <= self._drafter.n_ctx]
        for candidate in candidates:
            self._state(candidate.sequence)
        counts, rate = self._best(candidates, load)
        saving = 1 - load.n_tokens / load.seconds / rate if rate else 0.0
        worth = [(c, n) for c, n in counts if self._is_worth_reading(c, saving / len(counts), load)]
        for candidate in candidates:
            self._state(candidate.sequence).is_on = False
        probed = self._to_probe(candidates, worth, load)
        if probed is None and not worth:
            self._rest, self._n_resting = _REST, n_given
            return {}
        if probed is None:
            return self._draft(worth, load)
        cost, before = self._guess_seconds(load) + self._reading_seconds(probed.sequence), self.seconds
        found = self._draft([*worth, (probed, 1)], load)
        # Next to others, the guess shares the steps of the draft model, and its own part is only estimated.
        self._probe_seconds += cost if worth else max(cost, self.seconds - before)
        state = self._states[probed.sequence.id]
        state.n_probes, state.is_on = state.n_probes + 1, False
        return found

    def _state(self, sequence: Sequence) -> _State:
        """Return the state of a sequence in its present slot."""
        state = self._states.setdefault(sequence.id, _State())
        if state.slot != sequence.slot_id:
            state.slot, state.n_held = sequence.slot_id, 0
        if self._drafter.reads_along:
            state.n_held = len(sequence.tokens)
        return state

    def _best(self, candidates: list[Candidate], load: StepLoad) -> tuple[list[tuple[Candidate, int]], float]:
        """Return the numbers of guesses with the most expected tokens per second, and that rate; none and 0 for none.

        A guess is added if its chance is at least a limit. Several limits are tried.
        """
        best: list[tuple[Candidate, int]] = []
        best_rate, least = 0.0, self._least_gain * load.n_tokens / load.seconds
        for limit in LEAST_CHANCES:
            counts: list[tuple[Candidate, int]] = []
            gained = 0.0
            for candidate in candidates:
                n, gain = _guesses_above(limit, self._chance(self._states[candidate.sequence.id]), candidate.most)
                if n:
                    counts.append((candidate, n))
                    gained += gain
            if not 0 < sum(n for _, n in counts) <= load.free:
                continue
            guessing = load.with_guesses({c.sequence.slot_id: n for c, n in counts}, gained, self._costs)
            rate = guessing.n_tokens / (guessing.seconds + self._draft_seconds([n for _, n in counts]))
            if rate > max(least, best_rate):
                best, best_rate = counts, rate
        return best, best_rate

    def _draft_seconds(self, counts: list[int]) -> float:
        """Return what the guesses cost in the draft model: all sequences together draw one guess in each step.

        A cost that was not measured yet counts as 0, so that it is measured.
        """
        return sum(self._draft_costs.of_rows(sum(n > i for n in counts)) or 0.0 for i in range(max(counts)))

    def _reading_seconds(self, sequence: Sequence) -> float:
        """Return what it costs until the draft model has read the sequence."""
        state = self._states[sequence.id]
        n_missing = len(sequence.tokens) - state.n_held
        return max(0, n_missing - _CURRENT) * (self._draft_costs.per_prompt_token or 0.0)

    def _is_worth_reading(self, candidate: Candidate, saving: float, load: StepLoad) -> bool:
        """Return whether the rest of the answer will save the time that the draft model needs to read the sequence.

        `saving` is the part of the time that guesses for this sequence save.
        """
        expected = min(candidate.left, max(_LEAST_EXPECTED, candidate.sequence.n_generated))
        return self._reading_seconds(candidate.sequence) <= saving * load.seconds * expected

    def _to_probe(
        self, candidates: list[Candidate], worth: list[tuple[Candidate, int]], load: StepLoad
    ) -> Candidate | None:
        """Return the sequence for which one guess is tried although it has none in `worth`, or None if none is due."""
        spare = PROBE_SHARE * self._costs.total_seconds - self._probe_seconds - self._guess_seconds(load)
        if spare < 0 or load.free <= sum(n for _, n in worth):
            return None
        others = [c for c in candidates if c.most > 0 and not any(c is chosen for chosen, _ in worth)]
        affordable = [c for c in others if self._reading_seconds(c.sequence) <= spare]
        return min(affordable, key=lambda c: self._states[c.sequence.id].n_probes, default=None)

    def _guess_seconds(self, load: StepLoad) -> float:
        """Return the cost of one guess: what its row adds to a step, and the draft model's time."""
        guessing = load.with_guesses({next(iter(load.pending)): 1}, 0.0, self._costs)
        return max(0.0, guessing.seconds - load.seconds) + self._draft_seconds([1])

    def _most_read(self, load: StepLoad) -> int:
        """Return how many tokens the draft model may read, so that this takes no longer than the step itself."""
        per_token = self._draft_costs.per_prompt_token
        return max(_LEAST_PROMPT, int(load.seconds / per_token)) if per_token else _FIRST_READ

    def _draft(self, counts: list[tuple[Candidate, int]], load: StepLoad) -> dict[Sequence, Tokens[int]]:
        requests = [DraftRequest(self._states[c.sequence.id].slot, c.sequence.tokens, n) for c, n in counts]
        # A sequence that was read before has one or two new tokens.
        drafts = self._drafter.draft(requests, self._most_read(load) + 2 * len(requests))
        self._note_costs(drafts)
        found: dict[Sequence, Tokens[int]] = {}
        for (candidate, n), request in zip(counts, requests, strict=True):
            sequence, state = candidate.sequence, self._states[candidate.sequence.id]
            state.n_held = len(sequence.tokens) - drafts.missing.get(request.slot, 0)
            if guesses := drafts.guesses.get(request.slot, ())[:n]:
                found[sequence] = self._unchecked[sequence.id] = guesses
                state.is_on = True
        return found

    def _note_costs(self, drafts: Drafts) -> None:
        self.seconds += drafts.seconds
        for step in drafts.steps:
            # After a right guess, a sequence has two new tokens. That is no prompt: the cost belongs to the guesses.
            if step.n_prompt <= step.n_rows:
                self._draft_costs.note(step.n_rows, 0, step.seconds)
            elif step.n_prompt >= _LEAST_PROMPT:
                self._draft_costs.note(step.n_rows, step.n_prompt, step.seconds)


def _guesses_above(limit: float, chance: float, most: int) -> tuple[int, float]:
    """Return how many guesses in a row have at least this chance, and how many of them are expected to be right."""
    n, gained, of_all = 0, 0.0, chance
    while n < most and of_all >= limit:
        n, gained, of_all = n + 1, gained + of_all, of_all * chance
    return n, gained
