"""The reports of an engine process: what a turn of its loop did, and when the worker process is told.

Knows nothing of the scheduler: the loop notes what the scheduler's updates say.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, field
from msgspec.structs import replace

from worker_gguf.engine.batch import Batch, Logprob, StepResult
from worker_gguf.engine.image_runs import ImageWork
from worker_gguf.engine.sequence import Sequence
from worker_gguf.engine.slots import common_prefix
from worker_gguf.engine.speculation import Drafted
from worker_gguf.engine.updates import Ended, Scored, Token
from worker_gguf.link.errors import report_of
from worker_gguf.link.messages import Ending, Step

__all__ = ["Reports", "State", "Turn"]

# Tokens are not held if a step takes so long: a user would notice the delay, and little is gained.
_LONG_DECODE_S = 0.1


class State(Struct, frozen=True):
    """The state of the engine at the end of a turn, in the fields of `Step`."""

    time_s: float
    busy_slots: int
    waiting: int
    held_tokens: int
    saved_bytes: int


class Turn(Struct):
    """What a turn of the loop did. Its fields have the names and the meaning of those of `Step`.

    `urgent` has the requests that got their first token or ended. `images` is what was done for images since the turn
    before.
    """

    numbers: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprob | None] = field(default_factory=list)
    scored: list[tuple[int, tuple[Logprob, ...]]] = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=list)
    admitted: list[tuple[int, Sequence]] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    urgent: set[int] = field(default_factory=set)
    admitted_s: float = 0.0
    schedule_seconds: float = 0.0
    draft_seconds: float = 0.0
    n_batch_tokens: int = 0
    guessed: int = 0
    guessed_right: int = 0
    drafted: int = 0
    drafted_right: int = 0
    switched: bool = False
    images: ImageWork = ImageWork()
    result: StepResult = StepResult()

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
        sequence = update.sequence
        self.numbers.append(number)
        self.tokens.append(update.token)
        self.logprobs.append(update.logprob)
        if sequence.n_generated <= sequence.n_drawn:  # its first token, and those that a grammar forced after it
            self.urgent.add(number)

    def note_scored(self, number: int, update: Scored) -> None:
        self.scored.append((number, update.logprobs))

    def note_ended(self, number: int, update: Ended) -> None:
        self.endings.append(_ending(number, update))
        self.urgent.add(number)

    def divided(self) -> tuple[Turn, Turn]:
        """Return what cannot wait, and the further tokens of answers, with all numbers of the computation."""
        now = Turn(
            scored=self.scored,
            seen=self.seen,
            admitted=self.admitted,
            endings=self.endings,
            urgent=self.urgent,
            admitted_s=self.admitted_s,
        )
        later = replace(self, numbers=[], tokens=[], logprobs=[], scored=[], seen=[], admitted=[], endings=[])
        for number, token, logprob in zip(self.numbers, self.tokens, self.logprobs, strict=True):
            part = now if number in self.urgent else later
            part.numbers.append(number)
            part.tokens.append(token)
            part.logprobs.append(logprob)
        return now, later

    def report(self, state: State) -> Step:
        result, images = self.result, self.images
        return Step(
            time_s=state.time_s,
            admitted_s=self.admitted_s,
            numbers=self.numbers,
            tokens=self.tokens,
            logprobs=self.logprobs if any(logprob is not None for logprob in self.logprobs) else [],
            # Not earlier: the step may have lost what it should have reused.
            admitted=[(number, sequence.n_cached or 0) for number, sequence in self.admitted],
            endings=self.endings,
            busy_slots=state.busy_slots,
            waiting=state.waiting,
            held_tokens=state.held_tokens,
            n_batch_tokens=self.n_batch_tokens,
            schedule_seconds=self.schedule_seconds,
            decode_seconds=result.decode_seconds,
            sample_seconds=result.sample_seconds,
            guessed=self.guessed,
            guessed_right=self.guessed_right,
            saved_bytes=state.saved_bytes,
            drafted=self.drafted,
            drafted_right=self.drafted_right,
            draft_seconds=self.draft_seconds,
            constrained=result.n_constrained,
            mask_seconds=result.mask_seconds,
            switched=self.switched,
            switch_seconds=result.switch_seconds,
            scored=self.scored,
            seen=self.seen,
            images_encoded=images.encoded,
            images_reused=images.reused,
            image_seconds=images.seconds,
        )


class Reports:
    """Sends the reports of the turns, and holds the further tokens of answers."""

    def __init__(self, send: Callable[[Step], None], *, hold: bool) -> None:
        """If they `hold`, further tokens of answers wait for `send_held`, which must be called during the drawing of
        the next step.

        Where llama.cpp computes on all processors, the worker process would take one of them from the computation. The
        drawing needs only one.
        """
        self._send = send
        self._hold = hold
        self._held: Step | None = None

    def send(self, turn: Turn, state: State) -> None:
        """Send the report of a turn, except what is held.

        Further tokens are held beside a first token, too. Sent at once, they would come one computation earlier than
        usual, and the tokens after them would seem late.
        """
        self.send_held()
        is_long = turn.result.decode_seconds > _LONG_DECODE_S
        # Without a further token, the next step may never come.
        if not self._hold or is_long or turn.urgent.issuperset(turn.numbers):
            self._send(turn.report(state))
            return
        if turn.urgent or turn.endings or turn.admitted or turn.scored or turn.seen:
            now, turn = turn.divided()
            self._send(now.report(state))
        self._held = turn.report(state)

    def send_held(self) -> None:
        """Send what is held, if anything is."""
        if self._held is not None:
            held, self._held = self._held, None
            self._send(held)


def _ending(number: int, ended: Ended) -> Ending:
    return Ending(
        number=number,
        reason=ended.reason,
        n_generated=ended.sequence.n_generated,
        n_cached=ended.sequence.n_cached or 0,
        error=None if ended.error is None else report_of(ended.error),
        end_token=ended.end_token,
    )
