"""The reports of an engine process: what a turn of its loop did, and when the worker process is told."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from worker_gguf.engine.batch import Batch, Logprob, StepResult
from worker_gguf.engine.sequence import Sequence
from worker_gguf.engine.slots import common_prefix
from worker_gguf.engine.speculation import Drafted
from worker_gguf.engine.updates import Ended, Scored, Token
from worker_gguf.link.errors import report_of
from worker_gguf.link.messages import Ending, Step

__all__ = ["Reports", "Turn"]

# Tokens are not held if the steps take so long: a user would notice, and little is gained.
_LONG_DECODE_S = 0.1


class Turn(Struct):
    """What a turn of the loop did, under the names of `Step` where these say it.

    Until a batch `has_begun`, nothing of it can wait. `urgent` has the requests that got their first token or ended.
    """

    tokens: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    logprobs: list[Logprob | None] = field(default_factory=list)
    scored: list[tuple[int, tuple[Logprob, ...]]] = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=list)
    admitted: list[tuple[int, Sequence]] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    urgent: set[int] = field(default_factory=set)
    has_begun: bool = False
    admitted_s: float = 0.0
    schedule_seconds: float = 0.0
    draft_seconds: float = 0.0
    n_batch_tokens: int = 0
    guessed: int = 0
    guessed_right: int = 0
    drafted: int = 0
    drafted_right: int = 0
    switched: bool = False
    result: StepResult = StepResult()

    @property
    def has_urgent(self) -> bool:
        return bool(not self.has_begun or self.urgent or self.endings or self.admitted or self.scored or self.seen)

    def note_result(self, batch: Batch, result: StepResult, drafted: Drafted) -> None:
        """Note what a batch took, and how many of its guesses were right."""
        self.result = result
        self.n_batch_tokens = batch.n_tokens
        if guessing := [chunk for chunk in batch.chunks if chunk.n_guesses]:
            drawn = {sampled.slot: list(sampled.tokens) for sampled in result.sampled}
            right = {chunk.slot: common_prefix(chunk.guesses, drawn.get(chunk.slot, [])) for chunk in guessing}
            self.guessed = sum(chunk.n_guesses for chunk in guessing)
            self.guessed_right = sum(right.values())
            self.drafted = sum(chunk.n_guesses for chunk in guessing if chunk.slot in drafted.slots)
            self.drafted_right = sum(n for slot, n in right.items() if slot in drafted.slots)

    def note_token(self, number: int, update: Token) -> None:
        self.numbers.append(number)
        self.tokens.append(update.token)
        self.logprobs.append(update.logprob)
        if update.sequence.n_generated == 1:
            self.urgent.add(number)

    def note_scored(self, number: int, update: Scored) -> None:
        self.scored.append((number, update.logprobs))

    def note_ended(self, number: int, update: Ended) -> None:
        self.endings.append(_ending(number, update))
        self.urgent.add(number)

    def step(self, **others: Any) -> Step:
        """Return the report. `others` are the fields of `Step` that are no part of the turn."""
        result = self.result
        return Step(
            admitted_s=self.admitted_s,
            numbers=self.numbers,
            tokens=self.tokens,
            logprobs=self.logprobs if any(logprob is not None for logprob in self.logprobs) else [],
            # Not earlier: the step may have lost what it should have reused.
            admitted=[(number, sequence.n_cached or 0) for number, sequence in self.admitted],
            endings=self.endings,
            n_batch_tokens=self.n_batch_tokens,
            schedule_seconds=self.schedule_seconds,
            decode_seconds=result.decode_seconds,
            sample_seconds=result.sample_seconds,
            guessed=self.guessed,
            guessed_right=self.guessed_right,
            drafted=self.drafted,
            drafted_right=self.drafted_right,
            draft_seconds=self.draft_seconds,
            constrained=result.n_constrained,
            mask_seconds=result.mask_seconds,
            scored=self.scored,
            seen=self.seen,
            switched=self.switched,
            switch_seconds=result.switch_seconds,
            **others,
        )


class Reports:
    """Sends reports, or holds what nobody waits for until the next step is computed."""

    def __init__(self, send: Callable[[Step], None], *, hold: bool) -> None:
        """If they `hold`, further tokens of answers wait for `send_held`, which must be called during the drawing of
        the next step.

        Where llama.cpp computes on all processors, the worker process would take one of them from the computation. The
        drawing needs only one.
        """
        self._send = send
        self._hold = hold
        self._held: Step | None = None

    def send(self, turn: Turn, step: Step) -> None:
        """Send the report of a turn, without what is held.

        All further tokens are held, next to a first token, too: one that came early would make the next one late.
        """
        self.send_held()
        is_long = turn.result.decode_seconds > _LONG_DECODE_S
        # Without a further token, the next step may never come.
        if not self._hold or is_long or turn.urgent.issuperset(turn.numbers):
            self._send(step)
        elif turn.has_urgent:
            now, self._held = _divided(step, turn.urgent)
            self._send(now)
        else:
            self._held = step

    def send_held(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._send(held)


def _divided(step: Step, urgent: Set[int]) -> tuple[Step, Step]:
    """Divide a report into what cannot wait, with the tokens of some requests, and all other tokens and numbers."""
    first = [at for at, number in enumerate(step.numbers) if number in urgent]
    others = [at for at, number in enumerate(step.numbers) if number not in urgent]
    now = Step(
        time_s=step.time_s,
        admitted_s=step.admitted_s,
        **_tokens_at(step, first),
        admitted=step.admitted,
        endings=step.endings,
        scored=step.scored,
        seen=step.seen,
        busy_slots=step.busy_slots,
        waiting=step.waiting,
        held_tokens=step.held_tokens,
        saved_bytes=step.saved_bytes,
        n_batch_tokens=0,
        schedule_seconds=0.0,
        decode_seconds=0.0,
        sample_seconds=0.0,
    )
    return now, replace(step, **_tokens_at(step, others), admitted=[], endings=[], scored=[], seen=[])


def _tokens_at(step: Step, places: list[int]) -> dict[str, Any]:
    return {
        "numbers": [step.numbers[at] for at in places],
        "tokens": [step.tokens[at] for at in places],
        "logprobs": [step.logprobs[at] for at in places] if step.logprobs else [],
    }


def _ending(number: int, ended: Ended) -> Ending:
    return Ending(
        number=number,
        reason=ended.reason,
        n_generated=ended.sequence.n_generated,
        n_cached=ended.sequence.n_cached or 0,
        error=None if ended.error is None else report_of(ended.error),
        end_token=ended.end_token,
    )
